#!/bin/sh
# Fills the settings into nginx's configuration, and becomes nginx.
set -eu

milliseconds() { # nginx takes no fractions of a second
  awk "BEGIN { printf \"%dms\", ($1) * 1000 }"
}

: >/tmp/proxies.conf
: >/tmp/proxies.geo
for proxy in $(echo "$TRUSTED_PROXIES" | tr ',' ' '); do
  case $proxy in
    */0) echo "TRUSTED_PROXIES: anybody could say that they are another" >&2; exit 1 ;;
  esac
  echo "set_real_ip_from $proxy;" >>/tmp/proxies.conf
  echo "$proxy 1;" >>/tmp/proxies.geo
done

sed -e "s/@HEADER_TIMEOUT@/$(milliseconds "$HEADER_TIMEOUT_SECONDS")/" \
    -e "s/@BODY_TIMEOUT@/$(milliseconds "$BODY_TIMEOUT_SECONDS + 5")/" \
    -e "s/@KEEP_ALIVE@/$(milliseconds "$KEEP_ALIVE_SECONDS")/" \
    -e "s/@MAX_BODY@/$((MAX_UPLOAD_SIZE_MB + 1))m/" \
    -e "s/@MAX_CONNECTIONS_PER_ADDRESS@/$MAX_CONNECTIONS_PER_ADDRESS/" \
    /door/nginx.conf >/tmp/nginx.conf

# -e: nginx would first look for a log that this read-only image has no room for
exec nginx -e stderr -c /tmp/nginx.conf
