"""Drives the KMS emulator with boto3, a client that shares no code with it. One argument: the endpoint's URL."""

import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

kms = boto3.client(
    "kms",
    endpoint_url=sys.argv[1],
    region_name="eu-central-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
    # No retries, and short waits: a fault must show as one. No proxy: the endpoint is on this machine.
    config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10, proxies={}),
)


def check(condition, what):
    # Not `assert`, which python -O removes.
    if not condition:
        sys.exit(f"failed: {what}")


def refused(name, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        check(error.response["Error"]["Code"] == name, f"expected {name}, got {error}")
        check(error.response["ResponseMetadata"]["HTTPStatusCode"] == 400, f"{name} with another status")
        # boto3 makes a typed class of every modelled exception.
        typed = getattr(kms.exceptions, name, None)
        check(typed is None or isinstance(error, typed), f"{name} is not typed")
    else:
        sys.exit(f"failed: {name} was not raised by {call.__name__}")


key = kms.create_key(Description="from boto3")["KeyMetadata"]
arn = key["Arn"]
check(key["KeyState"] == "Enabled" and key["Description"] == "from boto3", "metadata")
check(key["CreationDate"].year >= 2024, "creation date")
kms.create_alias(AliasName="alias/boto", TargetKeyId=key["KeyId"])
other = kms.create_key()["KeyMetadata"]["Arn"]
context = {"session": "één", "platform": "p"}

# Data keys and contexts.
made = kms.generate_data_key(KeyId="alias/boto", KeySpec="AES_256", EncryptionContext=context)
blob = made["CiphertextBlob"]
check(made["KeyId"] == arn and len(made["Plaintext"]) == 32, "data key")
opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext=dict(reversed(context.items())), KeyId=arn)
check(opened["Plaintext"] == made["Plaintext"] and opened["KeyId"] == arn, "decrypt")
for wrong in ({}, {"session": "één"}, {**context, "more": ""}, {**context, "session": "e"}):
    refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=blob, EncryptionContext=wrong)
refused("IncorrectKeyException", kms.decrypt, CiphertextBlob=blob, EncryptionContext=context, KeyId=other)
for index in range(len(blob)):
    changed = bytearray(blob)
    changed[index] ^= 0x10
    refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=bytes(changed), EncryptionContext=context)
hidden = kms.generate_data_key_without_plaintext(KeyId=arn, NumberOfBytes=64)
check("Plaintext" not in hidden, "hidden data key")
check(len(kms.decrypt(CiphertextBlob=hidden["CiphertextBlob"])["Plaintext"]) == 64, "hidden data key's length")

# Limits. An empty plaintext is refused by boto3 itself, so it is left to the other tests.
largest = os.urandom(4096)
sealed = kms.encrypt(KeyId=arn, Plaintext=largest)
check(kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"])["Plaintext"] == largest, "4096 bytes")
refused("ValidationException", kms.encrypt, KeyId=arn, Plaintext=largest + b"x")
check(len(kms.generate_random(NumberOfBytes=1024)["Plaintext"]) == 1024, "random bytes")

# Re-encryption.
moved = kms.re_encrypt(
    CiphertextBlob=blob,
    SourceEncryptionContext=context,
    DestinationKeyId=other,
    DestinationEncryptionContext={"to": "other"},
)
check(moved["SourceKeyId"] == arn and moved["KeyId"] == other, "re-encryption's keys")
opened = kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"to": "other"})
check(opened["Plaintext"] == made["Plaintext"], "re-encryption")
refused("InvalidCiphertextException", kms.re_encrypt, CiphertextBlob=blob, DestinationKeyId=other)

# Rotation.
check(kms.get_key_rotation_status(KeyId=arn)["KeyRotationEnabled"] is False, "rotation off")
kms.enable_key_rotation(KeyId=arn, RotationPeriodInDays=2560)
status = kms.get_key_rotation_status(KeyId=arn)
check(status["KeyRotationEnabled"] and status["RotationPeriodInDays"] == 2560, "rotation period")
kms.rotate_key_on_demand(KeyId=arn)
check(kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == made["Plaintext"], "old ciphertext")
rotations = kms.list_key_rotations(KeyId=arn)["Rotations"]
check([entry["RotationType"] for entry in rotations] == ["ON_DEMAND"], "rotations")
kms.disable_key_rotation(KeyId=arn)
check("RotationPeriodInDays" not in kms.get_key_rotation_status(KeyId=arn), "rotation off again")

# States.
kms.disable_key(KeyId=arn)
refused("DisabledException", kms.decrypt, CiphertextBlob=blob, EncryptionContext=context)
kms.enable_key(KeyId=arn)
scheduled = kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
check(scheduled["KeyState"] == "PendingDeletion" and scheduled["KeyId"] == arn, "scheduled")
refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=blob, EncryptionContext=context)
refused("KMSInvalidStateException", kms.generate_data_key, KeyId=arn, KeySpec="AES_128")
check(kms.cancel_key_deletion(KeyId=arn)["KeyId"] == arn, "cancelled")
check(kms.describe_key(KeyId="alias/boto")["KeyMetadata"]["KeyState"] == "Disabled", "disabled after cancelling")
kms.enable_key(KeyId=arn)

# MACs.
mac_key = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["Arn"]
mac = kms.generate_mac(KeyId=mac_key, Message=b"message", MacAlgorithm="HMAC_SHA_256")["Mac"]
verify = dict(KeyId=mac_key, MacAlgorithm="HMAC_SHA_256", Mac=mac)
check(kms.verify_mac(Message=b"message", **verify)["MacValid"] is True, "MAC")
refused("KMSInvalidMacException", kms.verify_mac, Message=b"massage", **verify)

# Lists, and what is not there.
pages = kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1})
listed = [entry["KeyArn"] for page in pages for entry in page["Keys"]]
check(sorted(listed) == sorted([arn, other, mac_key]), "keys")
check([entry["AliasName"] for entry in kms.list_aliases()["Aliases"]] == ["alias/boto"], "aliases")
refused("AlreadyExistsException", kms.create_alias, AliasName="alias/boto", TargetKeyId=other)
refused("NotFoundException", kms.describe_key, KeyId="alias/none")
refused("UnknownOperationException", kms.list_grants, KeyId=arn)

print("all checks passed")
