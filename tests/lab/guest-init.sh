#!/bin/sh
# First process of a guest. It reports what it has on its console, in lines that people can read and
# tests look for, and then does what lab=VERB on the kernel's command line says:
#   net       (or nothing) try every network, report, power off
#   hold      the same, but stay and ping once a second until a line "stop" is typed; a line "ping
#             ADDRESS COUNT" sends that many pings, each as soon as the one before was answered, and a
#             line "reboot" reboots; a line "write DISK PLACE" or "read DISK PLACE" does that with the MiB
#             at this place of a disk, a line "cache DISK" reads all of it into the memory that is free, and a
#             line "eat MIB SECONDS" has a program that uses so much for that long; a line "vsock CID PORT"
#             sends a MiB there and compares what comes back (lab-vsock); a line "carrier INTERFACE VALUE" waits
#             up to 5 s for that, "queues INTERFACE" tells of its queues and which had interrupts, and "pingon CPU
#             ADDRESS COUNT" sends pings from one CPU; a line "port NAME MIB" says so much at
#             a port, and a line "flood" 160 KiB on hvc0; the power button ends it too, unless lab.stubborn is there
#   shell     the same, then a shell
#   time      tell when it is up and when its first interface has a link, to the microsecond, and
#             power off
#   disk      tell how long it takes to read and to write a disk, and power off
#   speed     tell how long it takes to send to 10.0.9.1, to receive from it and to ping it, and power off
#   hostile   write whatever into its PCI devices, as lab.seed=NUMBER has it, and power off
#   poweroff  power off at once
#   reboot    reboot at once
export PATH=/bin:/usr/bin:/sbin:/usr/sbin HOME=/root TERM=linux

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run

say() { echo "guest: $*"; }

# Ends the machine: `end poweroff` or `end reboot`. What was said last still waits in the kernel for
# the serial port to take it, and ending would lose it. Setting a terminal waits for that first
# (TCSETSW), whatever is set; this is set already. A port that takes nothing must not hold us up.
end() {
    timeout 5 stty opost </dev/console
    "$1" -f
}

verb=net
for word in $(cat /proc/cmdline); do
    case $word in lab=*) verb=${word#lab=} ;; esac
done

# Loads the drivers of all devices on these buses. A virtio device is there for its driver once its PCI
# function has one.
load_drivers() {
    for bus in "$@"; do
        for alias in $(cat /sys/bus/$bus/devices/*/modalias 2>/dev/null); do
            modprobe "$alias" 2>/dev/null
        done
    done
}

# The kernel's own clock, in seconds.
clock() {
    while read -r first second now rest; do
        [ "$first $second" = "now at" ] && break
    done </proc/timer_list
    echo "$((now / 1000000000)).$(printf %06d $((now / 1000 % 1000000)))"
}

if [ "$verb" = time ]; then
    say "clock $(clock) up"
    load_drivers pci
    interface=$(ls /sys/class/net | grep -v '^lo$' | head -n 1)
    if [ -n "$interface" ]; then
        ip link set "$interface" up
        until [ "$(cat "/sys/class/net/$interface/carrier")" = 1 ]; do usleep 1000; done
        say "clock $(clock) link"
    fi
    end poweroff
fi

# How long `took NAME COMMAND…` takes.
took() {
    name=$1
    shift
    begin=$(clock)
    "$@" >/dev/null 2>&1 || say "$name: FAILED"
    say "$name: $begin $(clock)"
}

# So many pieces of this size, past the guest's own memory for files.
if [ "$verb" = disk ]; then
    load_drivers pci virtio
    until [ -b /dev/vda ]; do usleep 1000; done
    write() { dd if=/dev/zero of=/dev/vda oflag=direct bs="$1" count="$2"; }
    fetch() { dd if=/dev/vda of=/dev/null iflag=direct bs="$1" count="$2"; }
    took "write 1M" write 1M 48
    took "read 1M" fetch 1M 48
    took "write 4k" write 4k 1500
    took "read 4k" fetch 4k 1500
    end poweroff
fi

# As much each way as the other end gives or takes in; what is sent has arrived once it says so.
if [ "$verb" = speed ]; then
    load_drivers pci virtio
    interface=$(ls /sys/class/net | grep -v '^lo$' | head -n 1)
    ip address add 10.0.9.2/24 dev "$interface"
    ip link set "$interface" up
    until ping -c 1 -W 1 10.0.9.1 >/dev/null 2>&1; do usleep 100000; done
    printf '#!/bin/sh\ndd if=/dev/zero bs=64k count=512\nread all\n' >/run/give
    printf '#!/bin/sh\ndd of=/dev/null bs=64k count=512 iflag=fullblock\n' >/run/take
    chmod +x /run/give /run/take
    took send nc 10.0.9.1 7001 -e /run/give
    took receive nc 10.0.9.1 7002 -e /run/take
    took ping ping -A -q -c 1000 10.0.9.1
    end poweroff
fi

# The CPUs that maxcpus= left out.
if grep -q maxcpus= /proc/cmdline; then
    for online in /sys/devices/system/cpu/cpu[0-9]*/online; do
        [ "$(cat "$online")" = 1 ] || echo 1 >"$online" || say "no $online"
    done
fi

cpus=$(grep -c '^processor' /proc/cpuinfo)
[ "$cpus" = 1 ] && cpus="1 CPU" || cpus="$cpus CPUs"
memory=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
say "up after $(cut -d' ' -f1 /proc/uptime) s, $cpus, $memory MiB"

# With lab.cpus: the kernel's clock, of each CPU its socket, its core and the threads there, and the NUMA
# nodes.
if grep -q lab.cpus /proc/cmdline; then
    say "clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource) of" \
        "$(cat /sys/devices/system/clocksource/clocksource0/available_clocksource)"
    for topology in /sys/devices/system/cpu/cpu[0-9]*/topology; do
        cpu=${topology%/topology}
        say "${cpu##*/}: socket $(cat "$topology/physical_package_id"), core $(cat "$topology/core_id")," \
            "threads $(cat "$topology/thread_siblings_list"), beside $(cat "$topology/core_siblings_list")"
    done
    for node in /sys/devices/system/node/node[0-9]*; do
        size=$(awk '/MemTotal/ { print int($4 / 1024) }' "$node/meminfo")
        say "${node##*/}: CPUs $(cat "$node/cpulist"), $size MiB"
    done
    say "flags:$(grep -m 1 '^flags' /proc/cpuinfo | cut -d: -f2) end"
fi

# What a guest would do that wants out: values of no sense in configuration space and registers, BARs
# over each other and over memory, vectors that lead anywhere.
hostile() {
    seed=$(sed -n 's/.*lab.seed=\([0-9]*\).*/\1/p' /proc/cmdline)
    devices=$(cd /sys/bus/pci/devices && grep -lv '^0x06' */class | cut -d/ -f1)
    for device in $devices; do
        echo 1 >"/sys/bus/pci/devices/$device/enable"
    done
    bars=$(cd /sys/bus/pci/devices && for device in $devices; do
        while read -r start end flags; do
            [ $((end)) -gt 0 ] && [ $((flags & 0x200)) -gt 0 ] && echo "$start"
        done <$device/resource
    done)
    awk -v seed="$seed" -v devices="$(echo $devices)" -v bars="$(echo $bars)" '
        function pick(n) { return int(rand() * n) }
        function word() { return sprintf("%04x%04x", pick(65536), pick(65536)) }
        BEGIN {
            srand(seed)
            count = split(devices, device, " ")
            known = split(bars " 0x100000 0x1000000 0xfee00000 0xfec00000 0xfffff000 0x0", place, " ")
            own = split(bars, bar, " ")
            for (round = 0; round < 300; round++) {
                at = device[1 + pick(count)]
                kind = pick(8)
                if (kind < 2) print "config", at, pick(256) * 4, word()
                # Decoding and bus mastering on and off, and a BAR moved meanwhile or not.
                else if (kind == 2) print "config", at, 4, sprintf("%08x", pick(1024))
                else if (kind < 5) print "place", at, 16 + pick(6) * 4, place[1 + pick(known)]
                else print "memory", at, bar[1 + pick(own)] " " pick(4096) * 4, word()
            }
        }' >/run/hostile
    made=0
    while read -r kind device offset value more; do
        case $kind in
        config | place)
            [ "$kind" = place ] && value=$(printf %08x $((value)))
            bytes=$(echo "$value" | sed 's/\(..\)\(..\)\(..\)\(..\)/\\x\4\\x\3\\x\2\\x\1/')
            printf "$bytes" | dd of="/sys/bus/pci/devices/$device/config" bs=4 seek=$((offset / 4)) \
                conv=notrunc 2>/dev/null
            ;;
        memory) devmem $((offset + value)) 32 "0x$more" 2>/dev/null ;;
        esac
        made=$((made + 1))
        [ $((made % 100)) = 0 ] && say "hostile: $made writes"
    done </run/hostile
    say "hostile: done"
    end poweroff
}

case $verb in
hostile) hostile ;;
poweroff) say "powering off"; end poweroff ;;
reboot) say "rebooting"; end reboot ;;
esac

ip link set lo up
modprobe -a failover net_failover
load_drivers pci virtio

# With lab.rng: where its random numbers come from, and what compressing 256 KiB of them gains.
if grep -q lab.rng /proc/cmdline; then
    head -c 262144 /dev/hwrng >/run/random
    say "rng: $(cat /sys/class/misc/hw_random/rng_current), $(wc -c </run/random) bytes," \
        "compressed $(gzip -c /run/random | wc -c), sha256 $(sha256sum </run/random | cut -d' ' -f1)"
    rm /run/random
fi

# With lab.vsock: sends back what comes to port 1234 by vsock, and messages to port 1235 (lab-vsock).
if grep -q lab.vsock /proc/cmdline; then
    lab-vsock echo 1234 >/run/streams 2>&1 &
    lab-vsock echo 1235 messages >/run/messages 2>&1 &
    tries=0
    until grep -q listens /run/streams && grep -q listens /run/messages || [ $tries -gt 50 ]; do
        tries=$((tries + 1))
        usleep 100000
    done
    say "vsock: $(cat /run/streams /run/messages | tr '\n' ' ')"
fi

# With lab.ports: sends back what comes to a port, unless that is for `port NAME MIB`, and has a shell on hvc0.
# A port is open to one at a time; without anybody of the host, there is nothing to read.
port_of() {
    name=$(grep -lx "$1" /sys/class/virtio-ports/*/name)
    basename "${name%/name}"
}
if grep -q lab.ports /proc/cmdline; then
    # All ports are there before the first one has its name.
    tries=0
    until [ -c /dev/hvc0 ] && [ "$(ls -d /sys/class/virtio-ports/* | wc -l)" = \
        "$(ls /sys/class/virtio-ports/*/name | wc -l)" ] || [ $tries -gt 100 ]; do
        tries=$((tries + 1))
        usleep 100000
    done
    for port in $(cat /sys/class/virtio-ports/*/name); do
        device=$(port_of "$port")
        case $port in
        hvc) continue ;;
        log) ;;
        *) { while :; do cat <&3 >&3; usleep 100000; done 3<>"/dev/$device" & } ;;
        esac
        say "port $port: $device"
    done
    { while :; do setsid sh -c 'exec sh -i </dev/hvc0 >/dev/hvc0 2>&1'; done & }
    [ -c /dev/hvc0 ] && say "a shell on hvc0"
fi

# The device of an interface: for virtio it lies one level below its PCI function.
function_of() {
    device=$(readlink -f "/sys/class/net/$1/device")
    case $device in */virtio[0-9]*) device=${device%/*} ;; esac
    echo "$device"
}

# How often the interrupts of a PCI function have fired, on all CPUs together, and of what kind they
# are.
interrupts_of() {
    device=$1
    kind=INTx
    numbers=$(cat "$device/irq" 2>/dev/null)
    if [ -d "$device/msi_irqs" ]; then
        numbers=$(ls "$device/msi_irqs")
        kind=$(cat "$device"/msi_irqs/* | sort -u)
        case $kind in msix) kind=MSI-X ;; msi) kind=MSI ;; esac
    fi
    count=$(awk -v wanted="$numbers" '
        BEGIN { split(wanted, list, /[ \n]+/); for (i in list) is[list[i] ":"] = 1 }
        $1 in is { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) sum += $i }
        END { print sum + 0 }' /proc/interrupts)
    echo "$count ($kind)"
}

# A drive, or a stick in a USB controller: its disks, and what the first MiB of each adds up to. With
# lab.write, the second half of each is written, and read back from the device itself.
has() { grep -q "^0x$1" /sys/bus/pci/devices/*/class; }
wait_for_disks() {
    tries=0
    until ls $1 >/dev/null 2>&1 || [ $tries -gt 100 ]; do
        tries=$((tries + 1))
        usleep 100000
    done
}
if has 0108 || has 0c03 || has 0180; then
    has 0c03 && modprobe -a usb_storage sd_mod && wait_for_disks '/dev/sd?'
    has 0108 && wait_for_disks '/dev/nvme*n*'
    has 0180 && wait_for_disks '/dev/vd?'
    for disk in /dev/nvme*n* /dev/sd? /dev/vd?; do
        [ -b "$disk" ] || continue
        block=/sys/class/block/${disk#/dev/}
        size=$(($(cat "$block/size") / 2048))
        sum=$(head -c 1048576 "$disk" | sha256sum | cut -d' ' -f1)
        say "${disk#/dev/}: $size MiB, sha256 $sum"
        case $disk in
        /dev/vd*)
            say "${disk#/dev/}: serial $(cat "$block/serial"), queues $(ls "$block/mq" | wc -l), read-only $(cat "$block/ro")"
            ;;
        esac
        grep -q lab.write /proc/cmdline || continue
        [ "$(cat "$block/ro")" = 0 ] || continue
        head -c 1048576 /dev/urandom >/run/random
        dd if=/run/random of="$disk" bs=64k seek=$((size * 8)) conv=fsync 2>/dev/null
        echo 3 >/proc/sys/vm/drop_caches
        wrote=$(sha256sum </run/random)
        read=$(dd if="$disk" bs=64k skip=$((size * 8)) count=16 2>/dev/null | sha256sum)
        [ "$wrote" = "$read" ] && found=equal || found=DIFFERENT
        say "${disk#/dev/}: 1 MiB written and read back: $found"
        case $disk in
        /dev/vd*)
            say "${disk#/dev/}: wrote sha256 ${wrote%% *}"
            # What is discarded reads as zeroes on the host's file systems.
            blkdiscard -o 1048576 -l 1048576 "$disk"
            rest=$(dd if="$disk" bs=64k skip=16 count=16 2>/dev/null | tr -d '\0' | wc -c)
            say "${disk#/dev/}: $rest bytes are left of what was discarded"
            ;;
        esac
    done
    for device in /sys/bus/pci/devices/*; do
        case $(cat "$device/class") in
        0x0108* | 0x0c03* | 0x0180*) say "${device##*/}: interrupts $(interrupts_of "$device")" ;;
        esac
    done
fi

# With lab.rings: which kind of rings its drivers have agreed on with each virtio device, whose type is a
# number (virtio 1.3, section 5). Its features are a row of digits, of which the 35th is VIRTIO_F_RING_PACKED.
if grep -q lab.rings /proc/cmdline; then
    for device in /sys/bus/virtio/devices/*; do
        [ "$(cut -c 35 "$device/features")" = 1 ] && rings=packed || rings=split
        say "rings of type $(($(cat "$device/device"))): $rings"
    done
fi

# QEMU's edu, which no driver knows: its registers, its DMA engine there and back, and its interrupt
# line twice. It moves the name of the ACPI tables, which is at a fixed place in our guests.
edu=$(grep -l 0x11e8 /sys/bus/pci/devices/*/device)
if [ -n "$edu" ]; then
    edu=${edu%/device}
    bar=$(head -n 1 "$edu/resource" | cut -d' ' -f1)
    register() { devmem $((bar + $1)) "${3:-32}" $2; }
    # From where to where, with which command of its engine (1 go, 2 from the device, 4 interrupt when
    # done), and how many bytes: 8 if that is left out.
    move() {
        register 0x80 "$1" 64
        register 0x88 "$2" 64
        register 0x90 "${4:-8}" 64
        register 0x98 "$3" 64
        while [ $(($(register 0x98 '' 64) & 1)) = 1 ]; do usleep 10000; done
    }
    modprobe uio_pci_generic
    echo 1234 11e8 >/sys/bus/pci/drivers/uio_pci_generic/new_id
    # Memory and bus mastering on, and INTx too.
    printf '\006\000' | dd of="$edu/config" bs=1 seek=4 conv=notrunc 2>/dev/null
    register 0x04 0x12345678
    say "edu: 0x12345678 turned round is $(register 0x04)"
    move 0xe0000 0x40000 1
    move 0x40000 0xee000 3
    say "edu: moved $(devmem 0xee000 32) $(devmem 0xee004 32)"
    # What comes after it is opened can be read: the number of interrupts so far.
    exec 3</dev/uio0
    for round in 1 2; do
        register 0x60 1
        count=$(timeout 5 dd bs=4 count=1 <&3 2>/dev/null | od -An -tu4 | tr -d ' ')
        register 0x64 1
        # The driver masks the line at each interrupt.
        printf '\006\000' | dd of="$edu/config" bs=1 seek=4 conv=notrunc 2>/dev/null
        say "edu: interrupt $count"
    done
    # With lab.stray=ADDRESS,…, it also writes where this guest has no memory.
    for word in $(cat /proc/cmdline); do
        case $word in lab.stray=*) strays=$(echo "${word#lab.stray=}" | tr , ' ') ;; esac
    done
    for address in $strays; do
        move 0x40000 "$address" 3 2048
    done
    [ -n "$strays" ] && say "edu: strayed to $(echo $strays | wc -w) addresses"
fi

# QEMU's ivshmem, which no driver knows: what is at the end of its memory, another value there, and its
# ROM, as the kernel shows it.
ivshmem=$(grep -l 0x1110 /sys/bus/pci/devices/*/device)
if [ -n "$ivshmem" ]; then
    ivshmem=${ivshmem%/device}
    read -r start end flags <<BAR
$(sed -n 3p "$ivshmem/resource")
BAR
    echo 1 >"$ivshmem/enable"
    last=$((end - 7))
    say "memory of $(((end - start + 1) >> 30)) GiB at $start, its end was $(devmem $last 64)"
    devmem $last 64 0x6c61737420776f72
    say "memory: its end is $(devmem $last 64)"
    echo 1 >"$ivshmem/rom"
    say "ROM of $(wc -c <"$ivshmem/rom") bytes: $(dd if="$ivshmem/rom" bs=64 skip=1 count=1 2>/dev/null | tr -d '\0')"
    echo 0 >"$ivshmem/rom"
fi

# With lab.canary, 32 MiB whose sum is told now and when the guest ends.
canary() {
    grep -q lab.canary /proc/cmdline || return
    [ -e /run/canary ] || head -c 33554432 /dev/urandom >/run/canary
    say "canary $(sha256sum </run/canary | cut -d' ' -f1)"
}
canary

wait_for_carrier() {
    tries=0
    until [ "$(cat "/sys/class/net/$1/carrier" 2>/dev/null)" = 1 ]; do
        tries=$((tries + 1))
        [ $tries -gt 200 ] && return 1
        usleep 100000
    done
}

# A lease and a ping, through this interface and no other.
try() {
    if ! wait_for_carrier "$1"; then
        say "$1: no carrier"
        return
    fi
    if ! udhcpc -i "$1" -n -q -t 6 -T 2 -s /etc/lease.sh >/run/udhcpc.$1 2>&1; then
        say "$1: no lease"
        return
    fi
    gateway=$(cat "/run/gateway.$1")
    say "$1: lease $(cat "/run/address.$1"), gateway $gateway"
    answered=$(ping -c 3 -W 2 -I "$1" "$gateway" | grep -c ' bytes from ')
    say "$1: ping $gateway: $answered of 3 answered"
    grep -q lab.bulk /proc/cmdline || return
    # What is sent there comes back.
    echo=${gateway%.*}.100
    ip route add "$echo" dev "$1"
    head -c 1048576 /dev/urandom >/run/random
    sent=$(sha256sum </run/random)
    came=$(nc -w 10 "$echo" 7 </run/random | head -c 1048576 | sha256sum)
    [ "$sent" = "$came" ] && found=equal || found=DIFFERENT
    say "$1: 1 MiB sent and come back: $found"
}

report() {
    statistics=/sys/class/net/$1/statistics
    counts="rx $(cat "$statistics/rx_packets") packets, tx $(cat "$statistics/tx_packets") packets"
    if [ -e "/sys/class/net/$1/device" ]; then
        counts="interrupts $(interrupts_of "$(function_of "$1")"), $counts"
    fi
    say "$1: $counts"
}

interfaces=$(ls /sys/class/net | grep -v '^lo$')
[ -n "$interfaces" ] || say "no network interface"
for interface in $interfaces; do
    path=/sys/class/net/$interface
    at=
    if [ -e "$path/device" ]; then
        at="$(basename "$(readlink -f "$path/device/driver")") at $(basename "$(function_of "$interface")"), "
    fi
    say "$interface: ${at}mac $(cat "$path/address")"
    ip link set "$interface" up
done
for interface in $interfaces; do
    master=$(readlink "/sys/class/net/$interface/master")
    if [ -n "$master" ]; then
        say "$interface: part of ${master##*/}"
    else
        try "$interface"
    fi
done
# The loopback interface shows that nothing went another way.
for interface in $interfaces lo; do
    report "$interface"
done

# What came since, and what went: devices of a host that gives and takes them while we run.
come_and_go() {
    now=$(cat /sys/bus/pci/devices/*/modalias)
    if [ "$now" != "$aliases" ]; then
        aliases=$now
        for alias in $now; do
            modprobe "$alias" 2>/dev/null
        done
    fi
    # Looked at once: what goes between two looks would neither have gone nor be there.
    before=$interfaces
    interfaces=$(ls /sys/class/net | grep -v '^lo$')
    for interface in $before; do
        case " $(echo $interfaces) " in *" $interface "*) continue ;; esac
        say "$interface: went"
    done
    for interface in $interfaces; do
        case " $(echo $before) " in *" $interface "*) continue ;; esac
        at="$(basename "$(readlink -f "/sys/class/net/$interface/device/driver")")"
        say "$interface: came: $at, mac $(cat "/sys/class/net/$interface/address")"
        ip link set "$interface" up
        try "$interface"
    done
}

case $verb in
hold)
    aliases=$(cat /sys/bus/pci/devices/*/modalias)
    if ! grep -q lab.stubborn /proc/cmdline; then
        mkdir -p /etc/acpi/PWRF
        printf '#!/bin/sh\ntouch /run/stop\n' >/etc/acpi/PWRF/00000080
        chmod +x /etc/acpi/PWRF/00000080
        modprobe -a button evdev 2>/dev/null
        acpid -l /dev/null -p /run/acpid.pid
    fi
    say "holding"
    # Somebody else listens: a read with a time limit would lose a line that comes as it runs out.
    while read -r word address count; do
        case $word in
        stop) touch /run/stop ;;
        reboot) end reboot ;;
        write)
            head -c 1048576 /dev/urandom |
                dd of="/dev/$address" bs=64k seek=$((count * 16)) iflag=fullblock conv=fsync 2>/dev/null &&
                found=done || found=FAILED
            say "write $address $count: $found"
            ;;
        read)
            echo 3 >/proc/sys/vm/drop_caches
            dd if="/dev/$address" of=/dev/null bs=64k skip=$((count * 16)) count=16 2>/dev/null &&
                found=done || found=FAILED
            say "read $address $count: $found"
            ;;
        vsock)
            head -c 1048576 /dev/urandom >/run/random
            sent=$(sha256sum </run/random)
            came=$(lab-vsock send "$address" "$count" </run/random 2>/run/error | sha256sum)
            [ "$sent" = "$came" ] && found=equal || found="DIFFERENT $(cat /run/error)"
            say "vsock $address $count: $found"
            ;;
        port)
            # Beside all else, since it may take as long as somebody of the host likes.
            {
                head -c $((count * 1048576)) /dev/zero >"/dev/$(port_of "$address")" && found=done || found=FAILED
                say "port $address $count: $found"
            } &
            ;;
        flood)
            head -c 163840 /dev/zero | tr '\0' x >/dev/hvc0 && found=done || found=FAILED
            say "flood: $found"
            ;;
        cache)
            cat "/dev/$address" >/dev/null && found=done || found=FAILED
            say "cache $address: $found"
            ;;
        eat)
            # A byte is missing, so that the program has what came and waits for that.
            { head -c $((address * 1048576 - 1)) /dev/zero; sleep "$count"; } |
                dd of=/dev/null bs="${address}M" iflag=fullblock count=1 2>/dev/null &&
                found=done || found=FAILED
            say "eat $address: $found"
            ;;
        carrier)
            tries=0
            until [ "$(cat "/sys/class/net/$address/carrier")" = "$count" ] || [ $tries -gt 50 ]; do
                tries=$((tries + 1))
                usleep 100000
            done
            asked=$((asked + 1))
            say "carrier $address: $(cat "/sys/class/net/$address/carrier"), asked $asked times"
            ;;
        queues)
            say "queues $address: $(ls "/sys/class/net/$address/queues" | tr '\n' ' ')used by" \
                "$(awk '/virtio.*-(in|out)put/ { for (i = 2; i < NF - 2; i++) sum[$NF] += $i }
                    END { for (name in sum) if (sum[name] > 0) print name }' /proc/interrupts | sort | tr '\n' ' ')"
            ;;
        pingon)
            set -- $count
            answered=$(taskset -c "$address" ping -A -q -c "$2" "$1" | sed -n 's/.* \([0-9]*\) packets received.*/\1/p')
            say "pingon $address $1: $answered of $2 answered"
            ;;
        ping)
            answered=$(ping -A -q -c "$count" "$address" | sed -n 's/.* \([0-9]*\) packets received.*/\1/p')
            say "ping $address: $answered of $count answered"
            ;;
        esac
    done </dev/console &
    until [ -e /run/stop ]; do
        come_and_go
        for file in /run/gateway.*; do
            interface=${file##*.}
            [ -e "/sys/class/net/$interface" ] && [ -s "$file" ] && ping -c 1 -W 1 -I "$interface" "$(cat "$file")" >/dev/null
        done
        sleep 1
    done
    for interface in $interfaces; do
        report "$interface"
    done
    canary
    ;;
shell)
    say "a shell; leave it with exit"
    setsid cttyhack sh
    ;;
esac
say "done, powering off"
end poweroff
