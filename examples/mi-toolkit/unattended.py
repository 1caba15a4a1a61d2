"""Calls an MI server with the published Python client, once with a person and from then on without.

    pip install "ansys-openapi-common[oidc]"

    python unattended.py --sign-in     opens the browser and keeps the refresh token
    python unattended.py               no person, no browser

The token is kept in the credential store of the system: Windows Credential Locker, macOS Keychain, Secret Service
or KWallet. MI_URL names the server; without it, it is examples/mi-toolkit/server.ts.
"""
import os
import sys

import keyring
from ansys.openapi.common import ApiClientFactory
from requests_auth import OAuth2

url = os.environ.get("MI_URL", "http://localhost:5094/")
key = "ansys-openapi-common-oidc"  # where with_stored_token() looks, under the URL

if "--sign-in" in sys.argv:
    client = ApiClientFactory(url).with_oidc().authorize().connect()
    # The client hands its refresh token out to nobody; it is in the memory of requests_auth beneath it.
    ((_, _, refresh_token),) = OAuth2.token_cache.tokens.values()
    keyring.set_password(key, url, refresh_token)
else:
    client = ApiClientFactory(url).with_oidc().with_stored_token(key).connect()

response = client.rest_client.get(url)
response.raise_for_status()
print(response.json())
