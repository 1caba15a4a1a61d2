#!/bin/sh
# Makes what the containers need and nobody else has: `.env` with passwords, and secrets/ with keys and certificates.
# What is there already stays.
set -eu
cd "$(dirname "$0")"
umask 077

# Hexadecimal, so that it needs no quotes anywhere; the "Aa1!" is for the policy of SQL Server.
password() { printf 'Aa1!%s' "$(openssl rand -hex 16)"; }
if [ ! -e .env ]; then
  database=$(password)
  cat >.env <<EOF
# sqlserver or postgres
COMPOSE_PROFILES=sqlserver
# Of SQL Server: Developer is not for production; the others need a licence or, as Express, have limits.
MSSQL_PID=Developer
ADMIN_PASSWORD=$(password)
DATABASE_PASSWORD=$database
SQLSERVER_CONNECTION="Server=sqlserver,1433;Database=postern;User Id=postern;Password=$database"
POSTGRES_CONNECTION=postgresql://postern:$database@postgres/postern
POSTERN_COOKIE_KEY=$(openssl rand -hex 32)
EOF
fi

# Two years; the names are those by which the certificate is asked for. keyCertSign, because it is its own authority.
certificate() { # <folder> <name> <common name> <names>
  mkdir -p "secrets/$1"
  if [ ! -e "secrets/$1/$2.key" ]; then
    openssl req -x509 -newkey rsa:2048 -sha256 -nodes -days 730 -subj "/CN=$3" -addext "subjectAltName=$4" \
      -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign -addext extendedKeyUsage=serverAuth \
      -keyout "secrets/$1/$2.key" -out "secrets/$1/$2.crt" 2>/dev/null
  fi
}
certificate database database sqlserver DNS:sqlserver,DNS:postgres
# For a trial: browsers trust the certificate of an authority only. Put yours in its place.
certificate site site sso.example.com DNS:sso.example.com
for name in oidc wsfed; do certificate postern "$name" "Postern $name" DNS:sso.example.com; done
cp secrets/database/database.crt secrets/postern/

# The users in the containers are others than you, so the files are open; the folder around them is yours alone.
chmod 755 secrets/*
chmod 644 secrets/*/*
