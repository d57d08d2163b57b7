"""Categories of personal data: the keys of fideslang, and a few of our own for phones.

`FIDESLANG` holds the keys under ``user`` of the default taxonomy of fideslang 3.1.4 (IAB Tech Lab and Ethyca,
https://iabtechlab.github.io/fideslang; taxonomy under CC BY 4.0, package under Apache-2.0): the keys only, unchanged.
`OWN` adds what a phone tells and fideslang has no key for; each hangs below a key of fideslang, so that whoever knows
only that taxonomy reads the parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

FIDESLANG_VERSION = "3.1.4"

_USER = """
account account.settings account.username authorization authorization.biometric authorization.credentials
authorization.password behavior behavior.browsing_history behavior.media_consumption behavior.purchase_history
behavior.search_history biometric biometric.fingerprint biometric.health biometric.retinal biometric.voice childrens
contact contact.address contact.address.city contact.address.country contact.address.postal_code contact.address.state
contact.address.street contact.email contact.fax_number contact.organization contact.phone_number contact.url content
content.private content.public content.self_image criminal_history demographic demographic.age_range
demographic.date_of_birth demographic.gender demographic.language demographic.marital_status
demographic.political_opinion demographic.profile demographic.race_ethnicity demographic.religious_belief
demographic.sexual_orientation device device.cookie device.cookie_id device.device_id device.ip_address financial
financial.bank_account financial.credit_card government_id government_id.birth_certificate
government_id.drivers_license_number government_id.immigration government_id.national_identification_number
government_id.passport_number government_id.vehicle_registration health_and_medical health_and_medical.genetic
health_and_medical.insurance_beneficiary_id health_and_medical.record_id job_title location location.imprecise
location.precise name name.first name.last payment privacy_preferences sensor social telemetry unique_id
unique_id.pseudonymous user_sensor workplace
"""
FIDESLANG = frozenset({"user", *(f"user.{key}" for key in _USER.split())})

OWN: Mapping[str, str] = {
    "user.device.imei": "The number of a phone (IMEI), with its check digit or its software version",
    "user.device.imsi": "The number of a subscription with a mobile network (IMSI)",
    "user.device.iccid": "The number of a SIM card (ICCID)",
    "user.contact.phone_number.msisdn": "The telephone number that a mobile network knows a subscription by (MSISDN)",
    "user.content.private.sms": "The text of a short message",
    "user.social.contacts": "The contacts of a person: an address book",
}
CATEGORIES = FIDESLANG | OWN.keys()

# What fideslang calls a column that says nothing about a person.
NOT_PERSONAL = "system.operations"


def is_category(text: str) -> bool:
    """Whether ``text`` is a category of personal data that a data map may give to a column."""
    return text in CATEGORIES


def nearest(text: str) -> str:
    """The known category that ``text`` most likely means, or ''."""
    wanted = text.strip().lower()
    near = get_close_matches(wanted, sorted(CATEGORIES), n=1)
    if near:
        return near[0]
    # "email" alone, or a key of an older taxonomy such as user.provided.identifiable.contact.email: by its last part.
    last = get_close_matches(wanted.rsplit(".", 1)[-1], sorted({c.rsplit(".", 1)[-1] for c in CATEGORIES}), n=1)
    return min((c for c in CATEGORIES if last and c.rsplit(".", 1)[-1] == last[0]), key=len, default="")
