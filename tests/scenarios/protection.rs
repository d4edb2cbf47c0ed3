//! What the host lives on is not taken from it: each refusal tried, with the chain it shows, and
//! the device at work afterwards as if nobody had asked.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

/// Tries a command that must be refused, with this chain, and must leave the device's driver alone.
#[track_caller]
fn refused(host: &Host, command: &str, device: &str, chain: &str) {
    let driver = format!("readlink /sys/bus/pci/devices/{device}/driver || true");
    let before = host.ok(&driver);
    let output = host.run_within(command, Duration::from_secs(60)).expect("the command ends");
    assert_eq!(output.code, 3, "{command}\n{}{}", output.stdout, output.stderr);
    let said = format!("({chain})");
    let told = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains(&said), "{command}: {said} is not in: {told}");
    assert_eq!(host.ok(&driver), before, "{command}");
    let unset = format!("cat /sys/bus/pci/devices/{device}/driver_override");
    assert_eq!(host.ok(&unset), "(null)\n", "{command}");
}

/// The number of a process that was started in the background, by the last word it printed.
fn start(host: &Host, command: &str) -> u32 {
    let said = host.ok(&format!("{command} </dev/null >/dev/null 2>&1 & echo $!"));
    said.trim().parse().expect("a process number")
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_network_card_that_the_host_uses_is_not_taken() -> Result<()> {
    let host = Host::intel().igb(1).display().boot()?;
    let (card, bind) = ("0000:01:00.0", "assign bind 01:00.0");
    let refuses = |chain: &str| refused(&host, bind, card, &format!("{card} → {chain}"));

    // Addresses and routes, of both families and in any table.
    host.ok("ip addr add 10.0.2.15/24 dev eth0");
    refuses("eth0 → address 10.0.2.15");
    host.ok("ip link set eth0 up && ip route add default via 10.0.2.2");
    refuses("eth0 → default route");
    host.ok("ip addr flush dev eth0 && ip -6 addr add fd00::15/64 dev eth0");
    refuses("eth0 → address fd00::15");
    host.ok("ip -6 addr flush dev eth0 scope global");
    host.ok("ip route add default dev eth0 table 100");
    refuses("eth0 → default route");
    host.ok("ip route del default dev eth0 table 100 && ip route add 192.0.2.0/24 dev eth0");
    refuses("eth0 → a route");
    host.ok("ip route del 192.0.2.0/24 dev eth0");

    // Whoever is logged in through it, also where sudo has cleaned the environment.
    host.ok("ip addr add 10.0.2.15/24 dev eth0");
    let session = "SSH_CONNECTION='10.0.2.2 50000 10.0.2.15 22'";
    let chain = format!("{card} → eth0 → this SSH session");
    refused(&host, &format!("{session} {bind}"), card, &chain);
    let cleaned = format!("{session} sh -c 'env -u SSH_CONNECTION {bind}; exit $?'");
    refused(&host, &cleaned, card, &chain);
    host.ok("ip addr flush dev eth0 scope global");

    // What is stacked on it, up to what that carries.
    host.ok("modprobe 8021q && ip link add link eth0 name eth0.5 type vlan id 5");
    refuses("eth0 → eth0.5");
    host.ok("ip addr add 10.5.0.1/24 dev eth0.5");
    refuses("eth0 → eth0.5 → address 10.5.0.1");
    host.ok("ip link del eth0.5");
    host.ok("modprobe macvlan && ip link add link eth0 name mv0 type macvlan");
    refuses("eth0 → mv0");
    host.ok("ip link del mv0");
    host.ok("modprobe ipip && ip tunnel add tun7 mode ipip remote 10.9.9.9 dev eth0");
    refuses("eth0 → tun7");
    host.ok("ip link del tun7");
    host.ok("modprobe bridge && ip link add br7 type bridge && ip link set eth0 master br7");
    refuses("eth0 → br7");
    host.ok("ip link del br7");
    host.ok("modprobe -a team team_mode_roundrobin && ip link add team7 type team");
    host.ok("ip link set eth0 down && ip link set eth0 master team7");
    refuses("eth0 → team7");
    host.ok("ip link del team7");
    host.ok("modprobe bonding max_bonds=0 && echo +bond0 > /sys/class/net/bonding_masters");
    host.ok("echo +eth0 > /sys/class/net/bond0/bonding/slaves && ip link set bond0 up");
    refuses("eth0 → bond0");
    host.ok("ip addr add 10.0.2.15/24 dev bond0 && ip route add default via 10.0.2.2");
    refuses("eth0 → bond0 → default route");
    // It works as before.
    host.ok("for i in 1 2 3 4 5 6 7 8; do ping -c 1 -W 1 10.0.2.2 && exit 0; done; exit 1");
    host.ok("echo -bond0 > /sys/class/net/bonding_masters");

    // What another network namespace has of it.
    host.ok("ip link add link eth0 name mv0 type macvlan");
    let inside = start(&host, "unshare -n sleep 1000");
    let other = format!("test $(readlink /proc/{inside}/ns/net) != $(readlink /proc/1/ns/net)");
    host.ok(&format!("until {other}; do sleep 0.1; done"));
    host.ok(&format!("ip link set mv0 netns {inside}"));
    let there = format!("in the network namespace of sleep (process {inside})");
    refuses(&format!("eth0 → mv0, {there}"));
    host.ok(&format!("nsenter -t {inside} -n ip link del mv0"));
    host.ok(&format!("ip link set eth0 netns {inside}"));
    refuses(&format!("eth0, {there}"));
    let enter = format!("nsenter -t {inside} -n");
    host.ok(&format!("{enter} ip addr add 10.0.2.15/24 dev eth0"));
    host.ok(&format!("{enter} ip link set eth0 up && {enter} ip route add default via 10.0.2.2"));
    refuses(&format!("eth0, {there} → default route"));
    let listed = host.ok("assign devices 01:00.0 -o json");
    assert!(listed.contains(&format!("eth0, {there} → default route")), "{listed}");
    host.ok(&format!("{enter} ip link set eth0 netns 1 && kill {inside}"));

    // A VF with an address in the host is neither taken nor destroyed.
    host.ok("ip link set eth0 up && assign vf create eth0 1 && ip addr add 10.6.0.1/24 dev eth1");
    let (vf, chain) = ("0000:01:10.0", "0000:01:10.0 → eth1 → address 10.6.0.1");
    refused(&host, "assign bind 01:10.0", vf, chain);
    refused(&host, "assign vf destroy eth0 --yes", vf, chain);
    host.ok("ip addr flush dev eth1 && assign vf destroy eth0 --yes");

    // The display has no driver, and firmware's picture on it.
    let display = "0000:00:17.0";
    refused(&host, "assign bind 00:17.0", display, &format!("{display} → the boot display"));

    // An interface that is up and carries nothing but its link-local address may go.
    host.ok("ip link set eth0 up && ip -6 addr show dev eth0 | grep fe80");
    host.ok(bind);
    assert!(host.ok(&format!("readlink /sys/bus/pci/devices/{card}/driver")).contains("vfio-pci"));
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_drive_that_the_host_uses_is_not_taken() -> Result<()> {
    let host = Host::intel().nvme().boot()?;
    let (drive, bind) = ("0000:01:00.0", "assign bind 01:00.0");
    let refuses = |chain: &str| refused(&host, bind, drive, &format!("{drive} → {chain}"));

    host.ok("mke2fs -q /dev/nvme0n1 && mount -t ext4 /dev/nvme0n1 /mnt && echo kept > /mnt/file");
    let namespace = host.ok("cat /sys/class/block/nvme0n1/nsid");
    refuses("nvme0n1 → /mnt");
    host.ok("grep kept /mnt/file && echo more > /mnt/file && sync");

    // Unmounted, but not let go: no table shows it any more.
    let inside = start(&host, "cd /mnt && sleep 1000");
    host.ok("umount -l /mnt");
    refuses("nvme0n1 → claimed by the kernel or a process");
    host.ok(&format!("kill {inside}"));

    // Mounted where only a container sees it.
    let command = "unshare -m sh -c 'mount -t ext4 /dev/nvme0n1 /mnt; exec sleep 1000'";
    let inside = start(&host, command);
    host.ok(&format!("until grep -q nvme0n1 /proc/{inside}/mountinfo; do sleep 0.1; done"));
    refuses(&format!("nvme0n1 → /mnt, in the mount namespace of sleep (process {inside})"));
    host.ok(&format!("kill {inside}"));

    host.ok("mkswap /dev/nvme0n2 && swapon /dev/nvme0n2");
    refuses("nvme0n2 → swap");
    host.ok("swapoff /dev/nvme0n2");

    // A virtual machine on a raw disk, as far as the host can tell.
    let inside = start(&host, "sh -c 'exec sleep 1000 < /dev/nvme0n2'");
    refuses(&format!("nvme0n2 → open in sleep (process {inside})"));
    host.ok(&format!("kill {inside}"));

    // Volumes are called as people call them.
    host.ok("modprobe dm_mod && lab-map vg0-root nvme0n1");
    refuses("nvme0n1 → vg0-root");
    host.ok("mount -t ext4 /dev/dm-0 /mnt && grep more /mnt/file");
    refuses("nvme0n1 → vg0-root → /mnt");
    host.ok("umount /mnt && lab-map --remove vg0-root");

    // An array of one, without metadata.
    host.ok("modprobe -a md_mod raid1 && echo md_lab > /sys/module/md_mod/parameters/new_array");
    let number = host.ok("cat /sys/class/block/nvme0n2/dev");
    let array = "/sys/block/md_lab/md";
    host.ok(&format!(
        "echo raid1 > {array}/level && echo none > {array}/metadata_version && \
         echo 1 > {array}/raid_disks && echo {} > {array}/new_dev && \
         echo 0 > {array}/dev-nvme0n2/slot && echo 30000 > {array}/component_size && \
         echo active > {array}/array_state",
        number.trim()
    ));
    refuses("nvme0n2 → md_lab");
    host.ok("mke2fs -q /dev/md_lab && mount -t ext4 /dev/md_lab /mnt");
    refuses("nvme0n2 → md_lab → /mnt");
    host.ok(&format!("umount /mnt && echo clear > {array}/array_state"));

    // Free of all that, it is given away, and back with everything on it.
    host.ok(bind);
    host.ok("assign release 01:00.0");
    // The kernel may name its disks the other way round this time.
    let disks = "for i in $(seq 100); do [ -b /dev/nvme0n1 -a -b /dev/nvme0n2 ] && break; sleep 0.1; \
                 done; grep -l . /sys/class/block/nvme0n?/nsid";
    let listed = host.ok(disks);
    let of_namespace = |place: &&str| host.ok(&format!("cat {place}")) == namespace;
    let place = listed.lines().find(of_namespace).expect("the namespace is there again");
    let disk = place.split('/').nth(4).expect("/sys/class/block/DISK/nsid");
    host.ok(&format!("mount -t ext4 /dev/{disk} /mnt && grep more /mnt/file && umount /mnt"));

    // By force it is taken from a process too, and what is lost is said, though no list shows it.
    let inside = start(&host, "sh -c 'exec sleep 1000 < /dev/nvme0n1'");
    refuses(&format!("nvme0n1 → open in sleep (process {inside})"));
    let forced = host.run_within("assign bind --force 01:00.0", Duration::from_secs(60))?;
    assert_eq!(forced.code, 0, "{}", forced.stderr);
    let lost = format!("{drive} → nvme0n1 → open in sleep (process {inside})");
    let told = forced.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains(&lost), "{told}");
    assert!(host.ok(&format!("readlink /sys/bus/pci/devices/{drive}/driver")).contains("vfio-pci"));
    Ok(())
}
