# Makes the calls of boto3's DynamoDB client that it is told, one JSON line each. Bytes are {"bytes": "<base64>"}.
import base64, json, sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

client = boto3.client(
    "dynamodb", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="test",
    aws_secret_access_key="test", config=Config(retries={"max_attempts": 5}))


def inward(value):
    if isinstance(value, dict):
        if set(value) == {"bytes"}:
            return base64.b64decode(value["bytes"])
        return {name: inward(inner) for name, inner in value.items()}
    return [inward(inner) for inner in value] if isinstance(value, list) else value


def outward(value):
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: outward(inner) for name, inner in value.items() if name != "ResponseMetadata"}
    if isinstance(value, (list, tuple)):
        return [outward(inner) for inner in value]
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


for line in sys.stdin:
    wanted = json.loads(line)
    try:
        said = {"answer": outward(getattr(client, wanted["call"])(**inward(wanted["with"])))}
    except ClientError as error:
        said = {"error": error.response["Error"]["Code"] + ": " + error.response["Error"]["Message"]}
    print(json.dumps(said), flush=True)
