"""Kinds of columns with their labels: how they are called, what type they have, what their values are."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.labelled import values as v
from benchmarks.labelled.values import Maker


@dataclass(frozen=True, slots=True)
class Kind:
    """Columns of one meaning. ``label`` is the category, '' for what is not personal. ``only`` names the tables "
        "that have
    such a column, all if empty."""

    label: str
    names: tuple[str, ...]
    make: Maker
    types: tuple[str, ...] = ("text",)
    only: tuple[str, ...] = ()


def _kind(label: str, names: str, make: Maker, types: str = "text", only: str = "") -> Kind:
    return Kind(label, tuple(names.split()), make, tuple(types.split()), tuple(only.split()))


STRINGS = "text varchar(200)"
# In tables about people. Names in the ways that code bases of several languages write them.
PERSONAL = (
    _kind("user.contact.email", "email Email user_email contactEmail email_address EMAIL_ADDR work_email mail "
          "billing_email correo_electronico courriel emailAdresse recovery_email unconfirmed_email customeremail "
          "correo e_mail 邮箱 email_normalized reply_to_email", v.email, STRINGS),
    _kind("user.contact.email", "c_0417 login_id kontakt_1 principal dato2 reach external_ref identifier field_7 "
        "owner_ref",
          v.email, STRINGS),
    _kind("user.contact.phone_number", "phone phone_number mobile mobileNumber tel telefon telefono_movil cell_phone "
          "contact_phone home_phone whatsapp_number rufnummer celular phone1 no_hp customer_phone 手机号 telephone "
              "handynummer",
          v.phone, STRINGS),
    _kind("user.contact.phone_number", "phone mobile work_phone telefone contact_number tel_no mobile_no "
        "shipping_phone",
          v.home_phone, STRINGS),
    _kind("user.contact.phone_number", "field_12 value2 reach_me dato_3 x_contact k_nr", v.phone, STRINGS),
    _kind("user.contact.phone_number", "phone mobile_number phone_no", v.msisdn, "bigint numeric(20,0)"),
    _kind("user.contact.phone_number.msisdn", "msisdn MSISDN subscriber_msisdn a_msisdn "
        "msisdn_number", v.msisdn, "text bigint"),
    _kind("user.device.imei", "imei IMEI device_imei imei_number imei1", v.imei, "text varchar(16) bigint"),
    _kind("user.device.imei", "handset_id equipment_id serial field_3", v.imei, "text", "phone_unit sim_activation"),
    _kind("user.device.imsi", "imsi IMSI sim_imsi imsi_number", v.imsi, "text bigint"),
    _kind("user.device.imsi", "subscriber_id subscription_id", v.imsi, "text", "phone_unit sim_activation"),
    _kind("user.device.iccid", "iccid sim_iccid sim_serial_number ICCID sim_number field_9 sim", v.iccid, "text "
        "varchar(22)"),
    _kind("user.name.first", "first_name firstName vorname prenom given_name fname middle_name nombre_de_pila "
        "imie", v.first_name,
          STRINGS),
    _kind("user.name.last", "last_name lastName nachname surname apellido family_name apellidos maiden_name "
        "nazwisko lname",
          v.last_name, STRINGS),
    _kind("user.name", "full_name fullName recipient_name contact_name customer_name nombre_completo legal_name "
        "holder_name "
          "guest_name shipping_name recipient cardholder_name beneficiary_name 姓名 patientName nama_lengkap "
              "name_on_card", v.full_name,
          STRINGS),
    _kind("user.name", "name", v.full_name, STRINGS, "customer patient employee guest passenger"),
    _kind("user.account.username", "username user_name screen_name nickname loginName benutzername "
        "nick_name", v.username, STRINGS),
    _kind("user.contact.address", "address home_address shipping_address billingAddress direccion anschrift endereco "
          "lieferadresse postal_address mailing_address 地址 residential_address address_line1", v.address, STRINGS),
    _kind("user.contact.address.street", "street strasse street_name rue calle streetname "
        "logradouro", v.street, STRINGS),
    _kind("user.contact.address.city", "city town ort shipping_city ciudad ville "
        "home_city", v.city, STRINGS, "postal"),
    _kind("user.contact.address.postal_code", "postal_code zip_code zip plz postcode code_postal zipcode "
        "cep", v.postal, STRINGS,
          "postal"),
    _kind("user.contact.address.state", "state province bundesland "
        "shipping_state", v.of("Goa", "SP", "Bayern", "Ohio"), STRINGS,
          "postal"),
    _kind("user.demographic.date_of_birth", "birth_date dob birthday date_of_birth geburtsdatum fecha_nacimiento "
        "birthdate "
          "date_naissance data_nascimento dateOfBirth", v.birth, "date timestamp text"),
    _kind("user.demographic.gender", "gender sex geschlecht genero", v.of("m", "f", "x"), "text char(1)"),
    _kind("user.device.ip_address", "ip ip_address last_login_ip remote_addr client_ip signup_ip ipAddress "
        "current_sign_in_ip",
          v.ip, "text inet"),
    _kind("user.device.ip_address", "ipv6 remote_ip origin_2 field_5 seen_from", v.ip6, "text"),
    _kind("user.device.ip_address", "from_addr_x src seen_at_addr2", v.ip, "text"),
    _kind("user.device.device_id", "mac_address wifi_mac mac bluetooth_mac field_8", v.mac, "text"),
    _kind("user.device.device_id", "device_id advertising_id idfa android_id gaid device_uuid "
        "push_token", v.uuid4, "text uuid"),
    _kind("user.device", "user_agent userAgent browser_user_agent", v.agent),
    _kind("user.authorization.password", "password password_hash passwd encrypted_password hashed_password "
        "password_digest pwd "
          "contrasena secret_2 cred", v.bcrypt, STRINGS),
    _kind("user.financial.credit_card", "card_number cc_number credit_card cardNumber pan kreditkartennummer "
        "field_4 payment_ref_x",
          v.card, STRINGS),
    _kind("user.financial.credit_card", "card_number card cc_num zahlung_2", v.card_grouped),
    _kind("user.financial.bank_account", "iban bank_account konto_iban account_iban field_6 "
        "bankverbindung", v.iban, STRINGS),
    _kind("user.government_id.national_identification_number", "cpf CPF cpf_number documento field_2", v.cpf, STRINGS),
    _kind("user.government_id.national_identification_number", "aadhaar aadhaar_number "
        "aadhar_no", v.aadhaar, "text bigint"),
    _kind("user.government_id.national_identification_number", "id_card_no shenfenzheng id_number 身份证号 "
        "field_11", v.chinese_id),
    _kind("user.government_id.national_identification_number", "dni dni_number documento_identidad", v.dni),
    _kind("user.government_id.national_identification_number", "ssn social_security_number SSN", v.ssn),
    _kind("user.government_id.passport_number", "passport_number passport passport_no reisepass "
        "pasaporte", v.passport),
    _kind("user.content.self_image", "avatar_url avatar profile_picture profile_photo selfie_url", v.avatar),
    _kind("user.location.precise", "latitude longitude lat lng gps_lat geo_lng", v.position, "float8 numeric(9,6) "
        "text"),
    _kind("user.content", "notes comment bio remarks note comments about_me customer_note", v.text),
    _kind("user.content.private.sms", "body content text message", v.text, "text", "sms_log incoming_sms"),
    _kind("user.content.private.sms", "sms_body sms_text", v.text, "text"),
    _kind("user.social.contacts", "contacts address_book phonebook "
        "contact_list", v.of('{"a": 1}', '[{"n": "x"}]'), "jsonb"),
    _kind("user.health_and_medical", "diagnosis allergies blood_type "
        "medical_history", v.of("A+", "none", "asthma", "J45"), STRINGS),
)  # fmt: skip
# Names that say nothing and values that have no form: nobody can tell without asking.
OPAQUE = (
    _kind("user.name", "inhaber field_1 value_3 bearbeiter destinatario wer", v.full_name, STRINGS),
    _kind("user.contact.address", "field_10 wohin value_5 adr2 loc_txt", v.address, STRINGS),
    _kind("user.demographic.date_of_birth", "geb fnac d_1 gebdat nasc", v.birth, "date text"),
    _kind("user.contact.phone_number", "kontakt_tel_privat x_nr field_13", v.home_phone, STRINGS),
    _kind("user.device.imei", "field_14 code_2", v.imei, "text bigint"),
    _kind("user.account.username", "alias usr u_name", v.username, STRINGS),
)  # fmt: skip
# Hard negatives, in any table: what looks like the above and is not.
NEGATIVE = (
    _kind("", "order_no order_number bestellnummer reference external_order ref_no", v.numbers(15, "35"), "text "
        "bigint"),
    _kind("", "invoice_no belegnummer document_no voucher_no", v.numbers(16, "4"), "text bigint"),
    _kind("", "tracking_number parcel_no awb shipment_ref", v.numbers(14), "text"),
    _kind("", "created_ms event_ts updated_at_ms ts lastSeenMs", v.numbers(13, "17"), "text bigint"),
    _kind("", "ts_us created_us nanos", v.numbers(16, "17"), "text bigint"),
    _kind("", "snowflake message_id tweet_id event_id external_id", v.numbers(19, "14"), "text bigint"),
    _kind("", "ledger_no batch_no serial", v.numbers(19, "89"), "text"),
    _kind("", "content_hash sha256 checksum etag email_hash digest", v.sha256),
    _kind("", "uuid public_id correlation_id request_id session_key", v.uuid4, "text uuid"),
    _kind("", "sku article_no part_number model_code", v.shaped("###-####-##"), STRINGS),
    _kind("", "item_code phone_model_code spare_part", v.shaped("0##-#####"), STRINGS),
    _kind("", "phone_model mobile_os handset_model device_model", v.of("Mi 11", "Note 10", "iPhone 13", "Poco "
        "X3"), STRINGS),
    _kind("", "app_version build_version firmware_version mac_os_version "
        "mobile_app_version", v.shaped("#.##.#.#"), STRINGS),
    _kind("", "release version fw_version", v.shaped("1.2.#.##"), STRINGS),
    _kind("", "email_template email_subject mail_type email_provider "
        "email_status", v.of("welcome", "reset", "sent", "smtp"), STRINGS),
    _kind("", "email email_frequency", v.of("daily", "weekly", "never"), "text"),
    _kind("", "email_count phone_verified_count contact_count login_count sms_count", v.between(0, 90), "integer"),
    _kind("", "email_verified_at password_changed_at last_login_at phone_confirmed_at", v.birth, "timestamp"),
    _kind("", "address_id phone_type contact_type note_type card_type ip_version", v.between(1, 9), "integer"),
    _kind("", "address_type phone_kind contact_channel card_brand", v.of("home", "work", "visa", "other"), STRINGS),
    _kind("", "server_ip gateway_ip host_ip dns_server upstream_ip", v.ip, "text inet"),
    _kind("", "tls_fingerprint cert_fingerprint key_fingerprint", v.md5_colons),
    _kind("", "switch_mac router_mac interface_mac", v.mac),
    _kind("", "file_name bucket_name table_name host_name template_name class_name", v.shaped("@@@@@_@@@"), STRINGS),
    _kind("", "title headline label caption product_name item_name category_name", v.of("Red "
        "shoe", "Lamp", "Sofa", "Kettle"), STRINGS),
    _kind("", "status state order_state phase workflow_state", v.of("new", "paid", "sent", "done"), STRINGS),
    _kind("", "error_message last_error status_message", v.of("timeout", "no route", "refused"), STRINGS),
    _kind("", "currency locale language_code timezone", v.of("EUR", "en", "de-DE", "UTC"), STRINGS),
    _kind("", "amount total price balance weight", v.between(1, 9999), "numeric(12,2) integer"),
    _kind("", "ean barcode gtin", v.numbers(13, "40"), "text"),
    _kind("", "isbn isbn13", v.shaped("978-#-##-######-#"), "text"),
    _kind("", "url permalink web_address callback_url", v.shaped("https://shop.example/@@@@/####"), STRINGS),
    _kind("", "repo_url git_remote clone_url", v.shaped("git@git.example:@@@@/@@@@.git"), STRINGS),
    _kind("", "package dependency image_ref", v.shaped("@@@@@@@1.#.#"), STRINGS),
    _kind("", "mime_message_id header_ref in_reply_to", v.shaped("<%%%%%%%%.####@mx.example.com>"), STRINGS),
    _kind("", "token nonce csrf api_key idempotency_key", v.shaped("%%%%%%%%%%%%%%%%%%%%"), STRINGS),
    _kind("", "color size_code grade priority channel", v.of("red", "L", "A", "high", "web"), STRINGS),
    _kind("", "position sort_order rank line_no quantity", v.between(1, 60), "integer bigint"),
    _kind("", "gift_card_code coupon promo_code", v.shaped("^^^^-####-^^^^"), STRINGS),
    _kind("", "flight_number seat_number room_number table_number gate", v.shaped("^^###"), STRINGS),
    _kind("", "opening_hours delivery_window slot", v.of("09:00-17:00", "08:30-12:00"), STRINGS),
    _kind("", "shipping_method delivery_method payment_method "
        "contact_method", v.of("post", "courier", "card"), STRINGS),
    _kind("", "cell_count grid_cell table_cell", v.between(1, 99), "integer"),
    _kind("", "description summary long_text", v.text),
    _kind("", "duration_ms retries attempts max_age cache_age", v.between(1, 9999), "integer"),
    _kind("", "date_code lot_no yymmdd", v.numbers(8, "20"), "text"),
    _kind("", "account_no ledger_account cost_center", v.numbers(6), "text"),
    _kind("", "coordinates_hash geo_hash plus_code", v.shaped("@#@@#@#"), "text"),
    _kind("", "phone_number_id whatsapp_template_id mobile_campaign_id", v.between(1, 9999), "integer bigint"),
    _kind("", "ip_range cidr_block subnet_mask", v.of("10.0.0.0/8", "192.168.1.0/24"), "text"),
    _kind("", "birthday_discount age_rating birth_certificate_required", v.between(0, 18), "integer"),
    _kind("", "email_domain mailbox_quota zip_file address_space ip_rating cell_type "
        "handy_tool", v.of("a1", "b2", "IP67"), STRINGS),
    _kind("", "race_name note_value card_deck pan_size body_style first_seen_in "
        "full_size", v.of("x", "big", "derby"), STRINGS),
    _kind("", "home_team_name street_art_title mobile_friendly "
        "iphone_case_color", v.of("Reds", "Blue", "yes"), STRINGS),
    _kind("", "user_name_pattern password_policy contact_url phonebook_version "
        "login_page", v.of("v1", "strict"), STRINGS),
    _kind("", "passport_required iban_check_enabled imei_lock", v.of("yes", "no"), "text"),
)  # fmt: skip
# In tables of places and things.
PLACE = (
    _kind("", "latitude longitude lat lon", v.position, "float8"),
    _kind("", "address street", v.address, STRINGS),
    _kind("", "city zip_code country state", v.city, STRINGS),
    _kind("", "name", v.of("North", "Depot 4", "Central"), STRINGS),
)  # fmt: skip
