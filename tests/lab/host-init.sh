#!/bin/sh
# First process of an emulated host: mounts, loads, names, and hands over to the lab's agent.
# What to do differently it reads from the kernel's command line (lab.*).
export PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/root TERM=linux

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
# The lab's own kernels have none, as some hosts.
[ ! -d /sys/fs/cgroup ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup

options=" $(cat /proc/cmdline) "
option() { case $options in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

hostname lab
ip link set lo up

# A kernel of the lab's own has all of them built in.
if [ ! -d "/lib/modules/$(uname -r)" ]; then
    modprobe() { :; }
fi

# Before there are devices, as on every host that has it.
if option lab.udevd; then
    systemd-udevd --daemon --resolve-names=never
fi

# igb comes before the other network drivers, so that its ports are eth0, eth1, … on every host. What
# has nothing to do with the order of interfaces loads beside it: under emulation this takes seconds.
modules="vfio_pci vfio_iommu_type1 tun vhost_net"
option lab.kvm=no || modules="kvm_amd $modules"
modprobe -a $modules &
modprobe -a igb igbvf
option lab.bridge && modprobe virtio_net
option lab.shared && modprobe e1000e
option lab.debian && modprobe virtio_blk
option lab.nvme && modprobe -a nvme crc32c_generic ext4
wait

# Drivers that are built in have found their cards in another order. The bridge's port gets a name of
# its own below; nobody else's name may be in the way.
if [ ! -d "/lib/modules/$(uname -r)" ]; then
    cards="/sys/bus/pci/drivers/igb/*/net/* /sys/bus/virtio/drivers/virtio_net/*/net/*
        /sys/bus/pci/drivers/e1000e/*/net/*"
    number=0
    for card in $cards; do
        [ -e "$card" ] || continue
        ip link set "${card##*/}" name "card$number"
        number=$((number + 1))
    done
    number=0
    for card in $cards; do
        [ -e "$card" ] || continue
        ip link set "${card##*/}" name "eth$number"
        number=$((number + 1))
    done
fi

# The host's own way out. The ports that are to be given away stay down: bringing one up when its
# functions are needed is not the lab's business.
if option lab.bridge; then
    modprobe bridge
    set -- /sys/bus/virtio/drivers/virtio_net/*/net/*
    ip link set "${1##*/}" name uplink0
    ip link add br0 type bridge
    ip link set uplink0 master br0
    ip link set uplink0 up
    ip link set br0 up
fi

cd /root
if option lab.shell; then
    echo
    echo "This is the emulated host. assign is in the PATH, examples are in /examples."
    echo "Leave with: exit (or Ctrl-A X, which pulls the plug)."
    setsid cttyhack sh
    poweroff -f
fi
exec lab-agent
