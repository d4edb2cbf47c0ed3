//! Guests that boot what the boot loader on their disk would.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);

/// As Debian's grub-mkconfig writes it, with the lab's own command lines.
const GRUB: &str = r#"
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="0"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
fi
function load_video {
  insmod all_video
}
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; fi
	search --no-floppy --fs-uuid --set=root 11111111-2222-3333-4444-555555555555
	linux	/vmlinuz-2 root=/dev/vda1 ro console=ttyS0 loglevel=6 lab=hold lab.from=grub
	initrd	/initrd.img-2
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced' {
	menuentry 'Debian GNU/Linux, with Linux 1' --class debian $menuentry_id_option 'gnulinux-1' {
		linux	/vmlinuz-2 root=/dev/vda1 ro console=ttyS0 loglevel=6 lab=poweroff lab.from=older
		initrd	/initrd.img-2
	}
	menuentry 'Debian GNU/Linux, gone' --class debian $menuentry_id_option 'gnulinux-gone' {
		linux	/vmlinuz-0 root=/dev/vda1 ro
	}
}
"#;

/// A guest with nothing but what it boots, and its disk.
fn document(name: &str, boot: &str, disk: &str) -> String {
    format!(
        "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: {name}}}\nspec:\n  memory: {{size: 256MiB}}\n  \
         boot: {{{boot}}}\n  disks: [{{name: root, path: {disk}}}]\n"
    )
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_boots_what_the_boot_loader_on_its_disk_would() -> Result<()> {
    let disk = "/dev/nvme0n2";
    let older = "disk: root, entry: gnulinux-1, cmdline: lab.more";
    let host = Host::intel()
        .nvme()
        .file("root/web.yaml", document("web", "disk: root", disk))
        .file("root/older.yaml", document("older", older, disk))
        .file("root/gone.yaml", document("gone", "disk: root, entry: gnulinux-gone", disk))
        .file("root/none.yaml", document("none", "disk: root, entry: lost", disk))
        .file("root/xfs.yaml", document("xfs", "disk: root", "/disks/xfs"))
        .file("root/damaged.yaml", document("damaged", "disk: root", "/disks/damaged"))
        .limit(Duration::from_secs(600))
        .boot()?;
    host.write("/tmp/table", lab::disk::table(32 << 20, 64).start);
    host.write("/tmp/grub.cfg", GRUB.as_bytes());
    host.ok(&format!(
        "dd if=/tmp/table of={disk} && blockdev --rereadpt {disk} && \
         for i in $(seq 50); do test -b {disk}p1 && break; usleep 100000; done; mke2fs -q {disk}p1 && \
         mount -t ext4 {disk}p1 /mnt && mkdir -p /mnt/grub && cp /tmp/grub.cfg /mnt/grub/ && \
         cp /boot/vmlinuz /mnt/vmlinuz-2 && ln -s ./kept/initrd /mnt/initrd.img-2 && mkdir /mnt/kept && \
         cp /boot/guest.cpio /mnt/kept/initrd && umount /mnt"
    ));

    // One line, and what GRUB would boot is booted, with its command line; when it reboots, again.
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let told = web.output_so_far();
    assert!(told.contains("web: boots Debian GNU/Linux, of its disk root"), "{told}");
    let cmdline = "root=/dev/vda1 ro console=ttyS0 loglevel=6 lab=hold lab.from=grub";
    assert!(told.contains(&format!("Kernel command line: {cmdline}")), "{told}");
    web.stdin("reboot\n");
    web.wait_for("web: rebooted, starting again", SOON)?;
    guests::await_again(&web, GUEST_TIME);
    let told = web.output_so_far();
    assert_eq!(told.matches("web: boots Debian GNU/Linux").count(), 2, "{told}");
    guests::stop(&web)?;

    // Another entry, and more on its command line.
    let older = host.run_within("assign run -f older.yaml", GUEST_TIME)?;
    assert_eq!(older.code, 0, "{older:?}");
    let told = "older: boots Debian GNU/Linux, with Linux 1, of its disk root";
    assert!(older.stderr.contains(told), "{older:?}");
    assert!(older.stdout.contains("lab.from=older lab.more"), "{older:?}");

    // What cannot be booted is named.
    let refused = |guest: &str, causes: &[&str]| -> Result<()> {
        let output = host.run(&format!("assign run -f {guest}.yaml"))?;
        assert_eq!(output.code, 2, "{output:?}");
        for cause in causes {
            assert!(output.stderr.contains(cause), "{cause}: {output:?}");
        }
        Ok(())
    };
    refused(
        "none",
        &[
            "none: cannot boot from its disk root, /dev/nvme0n2: its boot loader has no entry `lost`. It has: \
         gnulinux-simple (Debian GNU/Linux), gnulinux-1 (Debian GNU/Linux, with Linux 1), ",
            "Correct `boot: {entry: …}`",
        ],
    )?;
    refused(
        "gone",
        &["its entry Debian GNU/Linux, gone cannot be booted: /vmlinuz-0 of partition 1: ext4"],
    )?;
    host.ok("mkdir -p /disks && mount -t tmpfs none /disks && cd /disks && printf XFSB > xfs && \
             truncate -s 1M xfs && cp /tmp/table damaged && truncate -s 1M damaged && \
             printf x | dd of=damaged bs=1 seek=1024 conv=notrunc");
    refused("xfs", &["the whole disk: XFS", "boot: {kernel: …, initrd: …, cmdline: …}"])?;
    refused(
        "damaged",
        &["partition table (GPT) is damaged: the checksum of its entries is wrong"],
    )?;

    // The same disk with entries of the Boot Loader Specification: the newest is the default.
    let entry = |version: &str| {
        format!(
            "title Lab {version}\\nversion {version}\\nlinux /vmlinuz-2\\ninitrd /kept/initrd\\n\
             options console=ttyS0 loglevel=6 lab=poweroff\\noptions lab.from={version}\\n"
        )
    };
    host.ok(&format!(
        "mount -t ext4 {disk}p1 /mnt && rm -r /mnt/grub && mkdir -p /mnt/loader/entries && \
         printf '{}' > /mnt/loader/entries/lab-6.9.conf && printf '{}' > /mnt/loader/entries/lab-6.10.conf && \
         umount /mnt",
        entry("6.9"),
        entry("6.10")
    ));
    let bls = host.run_within("assign run -f web.yaml", GUEST_TIME)?;
    assert_eq!(bls.code, 0, "{bls:?}");
    assert!(bls.stderr.contains("web: boots Lab 6.10, of its disk root"), "{bls:?}");
    let cmdline = "Kernel command line: console=ttyS0 loglevel=6 lab=poweroff lab.from=6.10";
    assert!(bls.stdout.contains(cmdline), "{bls:?}");
    Ok(())
}
