#!/bin/sh
# What udhcpc runs when it has, or loses, a lease: sets the address and notes it for the report.
case $1 in
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    [ -n "$router" ] && ip route add default via "${router%% *}" dev "$interface" 2>/dev/null
    echo "$ip" >"/run/address.$interface"
    echo "${router%% *}" >"/run/gateway.$interface"
    ;;
esac
exit 0
