"""The words by which code bases call personal values, by category. Data only; `survey.hints` reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from domicile.survey.words import SUBJECT_WORDS


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


ADDRESS, STREET, CITY = "user.contact.address", "user.contact.address.street", "user.contact.address.city"
STATE, POSTAL = "user.contact.address.state", "user.contact.address.postal_code"
COUNTRY = "user.contact.address.country"
EMAIL, PHONE, FAX = "user.contact.email", "user.contact.phone_number", "user.contact.fax_number"
MSISDN, ORGANISATION = "user.contact.phone_number.msisdn", "user.contact.organization"
NAME, NAME_FIRST, NAME_LAST = "user.name", "user.name.first", "user.name.last"
USERNAME, PASSWORD = "user.account.username", "user.authorization.password"
CREDENTIALS = "user.authorization.credentials"
BIRTH, AGE, GENDER = "user.demographic.date_of_birth", "user.demographic.age_range", "user.demographic.gender"
MARITAL, RELIGION = "user.demographic.marital_status", "user.demographic.religious_belief"
RACE, ORIENTATION = "user.demographic.race_ethnicity", "user.demographic.sexual_orientation"
POLITICS, PROFILE = "user.demographic.political_opinion", "user.demographic.profile"
DEVICE, IP, AGENT = "user.device.device_id", "user.device.ip_address", "user.device"
COOKIE = "user.device.cookie_id"
IMEI, IMSI, ICCID = "user.device.imei", "user.device.imsi", "user.device.iccid"
CARD, ACCOUNT = "user.financial.credit_card", "user.financial.bank_account"
NATIONAL, PASSPORT = "user.government_id.national_identification_number", "user.government_id.passport_number"
DRIVER, PLATE = "user.government_id.drivers_license_number", "user.government_id.vehicle_registration"
TAX = "user.government_id"
PRECISE, IMPRECISE = "user.location.precise", "user.location.imprecise"
IMAGE, CONTENT = "user.content.self_image", "user.content"
SMS, CONTACTS = "user.content.private.sms", "user.social.contacts"
HEALTH, RECORD = "user.health_and_medical", "user.health_and_medical.record_id"
PRIVACY = "user.privacy_preferences"
BIOMETRIC, JOB = "user.biometric", "user.job_title"

PERSON_WORDS = SUBJECT_WORDS | _set(
    "contact recipient sender receiver holder owner author employee staff passenger traveller traveler driver rider "
    "beneficiary applicant candidate tenant donor voter attendee participant visitor spouse parent guardian child kin "
    "nominee insured payer payee buyer seller reviewer signer signatory doctor nurse teacher borrower lead caller "
    "callee "
    "cardholder users customers clients members contacts people students patients employees passengers guests kunden "
    "utilisateurs clientes usuarios"
)
# Whose or which: changes nothing about the kind.
SIDE_WORDS = _set(
    "billing shipping delivery invoice home work private personal primary secondary main alt alternate emergency "
    "reply "
    "from to cc bcc mailing postal legal registered login account notification recovery backup new old unconfirmed "
    "verified confirmed my his her their next of b2c"
)
# Words behind a term that leave it what it is.
HARMLESS = _set(
    "address addr number num no nr nummer numero numer value raw text string home work mobile private personal "
    "primary "
    "secondary main alt alternate other old new current previous original normalized normalised lower lc canonical "
    "plain "
    "enc encrypted cipher ciphertext full short e164 intl international local national masked electronico electronica "
    "electronique movil celular fijo portable cliente client usuario user customer kunde contact contacto kontakt "
    "billing "
    "shipping envio livraison facturation entrega factura de del des du da do privat particular one two a b x "
    "confirmation"
)
VERBS = _set(
    "is has can send allow enable require needs show hide notify opt use max min count total verify validate num "
    "missing "
    "by via per last_sent disable skip ignore block unique per"
)
FLAGS = _set("is has can should allow enable require needs num count total max min avg sum n")
MACHINE_WORDS = _set(
    "server host gateway dns node subnet router nat cluster container pod vip bind listen proxy upstream peer machine "
    "instance nameserver switch firewall network interface nic cidr mask range blacklist whitelist allowlist "
    "blocklist vm "
    "hosts servers nodes loadbalancer endpoint broker replica allowed denied version build release firmware"
)
# What belongs to a service and not to a person: smtp_password.
SERVICE_WORDS = _set("smtp imap pop3 ldap ssh ftp sftp db database redis proxy webhook bot oauth api mqtt amqp s3 aws")
PLACE_WORDS = _set(
    "warehouse store shop branch office company vendor supplier facility location venue hotel restaurant school depot "
    "building airport station hub terminal city country port factory plant clinic hospital pharmacy merchant carrier "
    "stores shops branches offices companies vendors suppliers venues hotels restaurants warehouses airports stations "
    "cities countries poi place places outlet kiosk gym theatre theater cinema campus site region province state zone"
)
THING_WORDS = _set("file product item sku project repo repository domain host table bucket template font class package")
TEXT_WORDS = _set("sms body text content message msg payload")
NAME_OF = PERSON_WORDS | {"shipping", "billing", "delivery"}


@dataclass(frozen=True, slots=True)
class Term:
    """Words that mean a category. ``alone``: only as the whole name; ``person``: only behind a word for a person;
    ``not_after``: words that make something else of it."""

    words: tuple[str, ...]
    category: str
    weak: bool = False
    unsure: bool = False
    alone: bool = False
    person: bool = False
    not_after: frozenset[str] = frozenset()
    scheme: str = ""


# A term: its words joined by _, or by + where they are also written together (first+name: firstname).
_SURE: Mapping[str, str] = {
    EMAIL: "email mail emails mails e+mail correo correo_electronico courriel epost e_post email+address "
    "mail+address elektronische_post emailadresse mailadresse surel pochta youxiang posta_elettronica",
    PHONE: "phone phones mobile mobil cell tel telephone telefon telefono telefone telefoon telpon telepon sdt "
    "dienthoai handy cell+phone mobile+phone phone+number mobile+number tel+number telephone+number whatsapp "
    "whatsapp+number celular movil portable shouji handynummer rufnummer telefonnummer telefonnr mobilnummer "
    "gsm phone+no mobile+no contact+number numero_telefono numero_de_telephone no_hp nohp hp_number "
    "telefonszam telefonas cep_telefonu landline",
    FAX: "fax telefax fax+number",
    MSISDN: "msisdn",
    IMEI: "imei imeisv imei+number device_imei",
    IMSI: "imsi",
    ICCID: "iccid sim_serial sim+serial+number sim_card_number icc_id",
    NAME_FIRST: "first+name given+name fore+name vorname prenom nombre_de_pila fname voornaam imie nome_proprio "
    "firstnames christian_name nama_depan middle+name middlenames second_name",
    NAME_LAST: "last+name family+name sur+name nachname nom_de_famille nom_famille apellido apellidos achternaam "
    "nazwisko cognome sobrenome lname familienname maiden+name soyad nama_belakang efternamn primer_apellido "
    "segundo_apellido",
    NAME: "recipient addressee cardholder full+name real+name legal+name nombre_completo nom_complet nome_completo "
    "nama_lengkap xingming name_on_card holder+name ho_ten hoten full_legal_name vollstaendiger_name "
    "name_of_holder patient_name imie_nazwisko ad_soyad nombre_y_apellidos nombre_apellidos",
    USERNAME: "user+name nick+name screen+name login_name loginname benutzername nombre_usuario nom_utilisateur",
    PASSWORD: "password passwd pwd pass_word hashed_password passwort contrasena mot_de_passe senha password_hash "
    "password_digest encrypted_password crypted_password password_salt pass_hash wachtwoord haslo passphrase",
    CREDENTIALS: "otp_secret totp_secret two_factor_secret mfa_secret recovery_codes backup_codes security_answer "
    "secret_answer otp_backup_codes webauthn_credential",
    ADDRESS: "address addr home_address mailing_address billing_address shipping_address delivery_address "
    "postal_address street_address residential_address lieferadresse rechnungsadresse wohnadresse dizhi "
    "alamat domicilio endereco direccion anschrift adresse_postale home_addr address_line addressline adresse "
    "adresszeile indirizzo",
    STREET: "street strasse rue calle street+name street+line via_indirizzo straat ulica gatuadress logradouro",
    POSTAL: "zip+code postal+code postcode post_code code_postal codigo_postal codigopostal plz kode_pos cap_postale "
    "cep",
    BIRTH: "birth birthday birthdate birth+date dob date_of_birth dateofbirth geburtsdatum geburtstag date_naissance "
    "fecha_nacimiento data_nascimento naissance nacimiento tanggal_lahir tgl_lahir geboortedatum "
    "data_urodzenia fecha_de_nacimiento date_de_naissance data_di_nascita birth_dt dt_nascimento dogum_tarihi "
    "birth_year year_of_birth birth+day",
    IP: "ip ip+address ip+addr ipaddr ipv4 ipv6 remote_ip client_ip remote_addr remote_address adresse_ip "
    "direccion_ip ip_v4 ip_v6 signup_ip registration_ip last_login_ip current_sign_in_ip last_sign_in_ip "
    "created_ip",
    AGENT: "user+agent useragent browser_user_agent http_user_agent",
    DEVICE: "device+id deviceid udid idfa gaid idfv android_id advertising_id advertiser_id hardware_id device_uuid "
    "device_identifier mac mac+address mac_addr macaddr wifi_mac bluetooth_mac device_serial "
    "device_fingerprint device_token push_token installation_id serial_number_device gps_adid adid meid",
    COOKIE: "cookie_id cookieid visitor_cookie tracking_cookie",
    CARD: "card+number credit+card credit_card_number cc_number ccnumber cc_num card_num cardno card_no cvv cvc "
    "cvv2 card_pan kreditkartennummer numero_tarjeta carte_bancaire debit_card cc_no cardnum kartennummer "
    "numero_cartao",
    ACCOUNT: "iban bank+account bank_account_number iban_number kontonummer account_iban cuenta_bancaria clabe "
    "compte_bancaire bank_acct routing_and_account numero_cuenta bank_acc_no",
    PASSPORT: "passport passport+number passport_no reisepass pasaporte passeport paspor pasport passport_nr",
    DRIVER: "drivers_license driver_license driving_license drivers_licence driving_licence driver_licence "
    "fuehrerschein fuehrerscheinnummer permis_de_conduire license_number_driver dl_number "
    "driving_license_number",
    PLATE: "license_plate licence_plate number_plate kennzeichen plate_number plaque_immatriculation matricula "
    "vin_plate car_plate vehicle_plate",
    NATIONAL: "national+id national_insurance_number social_security social_security_number ssn aadhaar aadhar "
    "id_card_number idcard id_card identity_card curp personnummer fodselsnummer codice_fiscale codicefiscale "
    "cpf bsn pesel tckimlik tc_kimlik cnic nric nino hetu shenfenzheng personal_number_national dni_number "
    "nro_documento numero_documento documento_identidad burgerservicenummer steuer_id steueridnr "
    "identity_number nid_number national_identity_number national_identification_number "
    "sozialversicherungsnummer numero_securite_sociale rodne_cislo ktp ktp_number no_ktp cmnd cccd "
    "id_number_national citizen_id resident_id identity_document numero_cedula",
    IMAGE: "avatar avatars avatar_url selfie portrait profile_picture profile_photo profile_pic profile_image "
    "user_photo profilbild foto_perfil photo_profil avatar_image picture_url_profile face_image headshot "
    "avatar_file_name avatar_path avatar_remote_url selfie_url portrait_url headshot_url user_image",
    PRECISE: "latitude longitude lat lng lon geolocation gps_position gps_location last_known_location gps_coordinates "
    "coordinates_gps current_location home_location lat_lng latlng geo_lat geo_lng geo_long coordinates_long "
    "gps_long gps_lat gps_lon gps_lng geo_point",
    SMS: "sms_body sms_text sms_content sms_message message_sms text_message_body",
    CONTACTS: "contacts address_book addressbook phone_book phonebook contact_list contacts_json kontakte "
    "libreta_contactos emergency_contact emergency_contacts uploaded_contacts synced_contacts buddy_list",
    RELIGION: "religion religious_belief konfession",
    RACE: "ethnicity ethnic_group race_ethnicity",
    ORIENTATION: "sexual_orientation sexuality",
    POLITICS: "political_opinion political_party_member party_affiliation",
    HEALTH: "diagnosis diagnoses allergies blood_type blood_group blutgruppe medical_history medical_condition "
    "medications diagnose disability icd10 diagnosis_code health_status hiv_status symptoms",
    RECORD: "medical_record_number mrn patient_number nhs_number health_insurance_number krankenversichertennummer",
    BIOMETRIC: "face_embedding face_template fingerprint_template iris_template voiceprint biometric_template "
    "face_encoding",
}
_WEAK: Mapping[str, str] = {
    CITY: "city town ort stadt ville ciudad cidade kota plaats miasto locality gemeinde wohnort",
    STATE: "state province district county provincia provincie bundesland region_name departement",
    STREET: "address_line_2 house_number hausnummer apartment apt_number",
    ADDRESS: "address_2 location_address lines",
    POSTAL: "zip postal",
    COUNTRY: "country country_code pais pays land country_iso",
    GENDER: "gender sex geschlecht genero sexe jenis_kelamin",
    MARITAL: "marital_status familienstand estado_civil civil_status",
    RACE: "nationality nationalitaet nacionalidad citizenship",
    AGE: "age age_range age_group edad alter",
    CONTENT: "note notes comment comments message body bio biography about remark remarks notizen bemerkung comentario "
    "comentarios about_me",
    ORGANISATION: "company company_name employer firma organisation_name",
    PROFILE: "interests preferences profile hobbies",
    JOB: "job_title occupation profession beruf",
    USERNAME: "login nick handle display+name",
    TAX: "tax+id tax_number steuernummer vat_id nif tin",
    CARD: "card_last4 last4 card_last_four",
    IMAGE: "photo picture photo_url picture_url image_url",
    ACCOUNT: "account_number acct_no",
    IMPRECISE: "location",
    PRIVACY: "marketing_consent consents privacy_settings privacy_preferences",
}
_UNSURE: Mapping[str, str] = {
    PHONE: "contact number contact_no contacto kontakt caller callee dialed_number called_number calling_number "
    "reach_at line_number subscriber_number",
    IMEI: "equipment_id terminal_id handset handset_id device device_number device_serial_number meid_imei equipment",
    IMSI: "subscriber_id subscription_id subscriber_identity",
    ICCID: "sim sim_number sim_card sim_id",
    CARD: "card pan primary_account_number card_token",
    NATIONAL: "pan nik dni nie cnp cpr rut nir rfc rrn ric egn emso oib amka idnr insee cedula ci id_number "
    "document_number",
}
_NOT_AFTER: Mapping[str, frozenset[str]] = {
    "message": _set(
        "error status log system exception commit response debug failure validation help warning welcome sms"
    ),
    "body": _set("request response http template car vehicle error"),
    "state": _set("order payment job workflow machine current previous old new task build sync"),
    "note": _set("release patch credit delivery bank"),
    "notes": _set("release patch"),
    "number": _set("order invoice serial part model version line page room seat flight ticket account batch lot issue"),
    "contact": _set("form"),
    "name": _set("user"),
    "device": _set("storage block"),
    "card": _set("gift sim score business"),
    "pan": _set("frying"),
    "sim": _set("dual"),
    "age": _set("cache max min token page message storage"),
    "about": _set("page"),
    "country": _set("origin made manufacturing"),
    "address": _set("mac ip email memory contract wallet web url bitcoin crypto host server bind e mail"),
    "addr": _set("mac ip email memory contract wallet web url bitcoin crypto host server bind remote"),
    "picture": _set("product item"),
    "photo": _set("product item"),
    "login": _set("last first failed"),
    "mac": _set("os platform"),
    "cell": _set("table grid spread solar fuel battery"),
    "portable": _set("is"),
    "comment": _set("code sql table column"),
    "phone": _set("head ear micro smart"),
    "ip": _set("zip"),
    "profile": _set("energy color colour risk pricing"),
    "via": frozenset(),
}
_ALONE = _set(
    "recipient addressee location lines name login contact number device sim card photo picture land alter ci "
    "equipment handset handle nick via cap"
)


def _entries() -> list[Term]:
    found = []
    for weak, unsure, table in ((False, False, _SURE), (True, False, _WEAK), (False, True, _UNSURE)):
        for category, terms in table.items():
            for term in terms.split():
                parts = tuple(term.replace("+", "_").split("_"))
                parts = tuple(p.rstrip("0123456789") or p for p in parts)
                alone = len(parts) == 1 and parts[0] in _ALONE
                not_after = _NOT_AFTER.get(parts[0], frozenset())
                scheme = term if category == NATIONAL else ""
                found.append(Term(parts, category, weak, unsure, alone, not_after=not_after, scheme=scheme))
    return found


def _by_first_word(entries: list[Term]) -> dict[str, tuple[Term, ...]]:
    found: dict[str, list[Term]] = defaultdict(list)
    for entry in entries:
        found[entry.words[0]].append(entry)
    return {word: tuple(terms) for word, terms in found.items()}


def _glued() -> dict[str, tuple[str, ...]]:
    """``firstname`` for ``first+name``."""
    return {
        term.replace("+", ""): tuple(term.split("+"))
        for table in (_SURE, _WEAK)
        for terms in table.values()
        for term in terms.split()
        if "+" in term
    }


TERMS_BY_FIRST_WORD = _by_first_word(_entries())
GLUED = _glued()
# In scripts without blanks, or not in Latin letters; the longer before the shorter that it holds.
NATIVE_TERMS: tuple[tuple[str, str], ...] = (
    ("电子邮箱", EMAIL), ("电子邮件", EMAIL), ("邮箱", EMAIL), ("メール", EMAIL), ("이메일", EMAIL), ("почта", EMAIL),
    ("手机号", PHONE), ("手机", PHONE), ("电话", PHONE), ("電話", PHONE), ("휴대폰", PHONE), ("전화", PHONE),
        ("телефон", PHONE),
    ("身份证", NATIONAL), ("护照", PASSPORT), ("паспорт", PASSPORT), ("密码", PASSWORD), ("пароль", PASSWORD),
    ("出生日期", BIRTH), ("生日", BIRTH), ("生年月日", BIRTH), ("дата_рождения", BIRTH), ("生年", BIRTH),
    ("收货地址", ADDRESS), ("地址", ADDRESS), ("住所", ADDRESS), ("주소", ADDRESS), ("адрес", ADDRESS), ("straße",
        STREET),
    ("姓名", NAME), ("氏名", NAME), ("фио", NAME), ("имя", NAME_FIRST), ("фамилия", NAME_LAST), ("prénom", NAME_FIRST),
    ("用户名", USERNAME), ("téléphone", PHONE), ("teléfono", PHONE), ("dirección", ADDRESS), ("contraseña", PASSWORD),
    ("geschäftsadresse", ADDRESS), ("hausanschrift", ADDRESS), ("銀行口座", ACCOUNT), ("银行卡", CARD),
)  # fmt: skip
