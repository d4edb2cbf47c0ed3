//! Guests with disks in qcow2 images, which QEMU's own tools make and look through on this machine.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Host;
use tempfile::TempDir;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);
const GRUB: &str =
    "menuentry Lab {\n linux /vmlinuz console=ttyS0 loglevel=6 lab=net\n initrd /initrd\n}\n";

/// A folder of this machine, with images that go to the host and come back.
struct Images(TempDir);

impl Images {
    /// Runs `qemu-img` there; whether it succeeds with this exit code.
    fn img(&self, arguments: &str) -> Result<i32> {
        let mut command = Command::new("qemu-img");
        let status = command
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .status()
            .context("qemu-img: run `cargo lab setup`")?;
        status.code().context("qemu-img was killed")
    }

    fn done(&self, arguments: &str) -> Result<()> {
        let code = self.img(arguments)?;
        ensure!(code == 0, "qemu-img {arguments}: exit code {code}");
        Ok(())
    }

    fn send(&self, host: &Host, name: &str) -> Result<()> {
        host.write(&format!("/disks/{name}"), fs::read(self.0.path().join(name))?);
        Ok(())
    }

    fn fetch(&self, host: &Host, name: &str) -> Result<()> {
        Ok(fs::write(self.0.path().join(name), contents(host, &format!("/disks/{name}")))?)
    }

    /// What a MiB of the disk in an image adds up to.
    fn sum(&self, name: &str, from: usize) -> Result<String> {
        self.done(&format!("convert -f qcow2 -O raw {name} raw"))?;
        let raw = fs::read(self.0.path().join("raw"))?;
        fs::write(self.0.path().join("part"), &raw[from << 20..(from + 1) << 20])?;
        let output = Command::new("sha256sum").arg(self.0.path().join("part")).output()?;
        Ok(String::from_utf8_lossy(&output.stdout)[..64].to_owned())
    }
}

/// A large file or disk of the host: of what a command says only the end is kept.
fn contents(host: &Host, path: &str) -> Vec<u8> {
    let mut contents = Vec::new();
    loop {
        let from = contents.len() >> 20;
        host.ok(&format!("dd if={path} of=/tmp/part bs=1M skip={from} count=8"));
        let part = host.read("/tmp/part");
        contents.extend(&part);
        if part.len() < 8 << 20 {
            return contents;
        }
    }
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_boots_from_a_qcow2_image_and_writes_to_it() -> Result<()> {
    let images = Images(tempfile::tempdir()?);
    let disks = "disks: [{name: root, path: /disks/root.qcow2, format: qcow2}, {name: data, path: \
                 /disks/data.qcow2, format: qcow2}]";
    let boots = format!(
        "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web}}\nspec:\n  memory: {{size: 256MiB}}\n  \
         boot: {{disk: root, cmdline: lab.write}}\n  {disks}\n"
    );
    let guest = |name, disk: &str| Guest::new(name, "hold").disk(disk).to_string();
    let host = Host::intel()
        .nvme()
        .file("root/web.yaml", boots)
        .file("root/db.yaml", guest("db", "name: data, path: /disks/data.qcow2, format: qcow2"))
        .file("root/none.yaml", guest("none", "name: data, path: /disks/data.qcow2"))
        .file(
            "root/backed.yaml",
            guest("backed", "name: a, path: /disks/backed.qcow2, format: qcow2"),
        )
        .limit(Duration::from_secs(600))
        .boot()?;

    // A disk with a kernel on it becomes a compressed image, as those that distributions give away.
    let disk = "/dev/nvme0n2";
    host.write("/tmp/grub.cfg", GRUB);
    host.ok(&format!(
        "mkdir -p /disks && mount -t tmpfs -o size=128m none /disks && mke2fs -q {disk} && \
         mount -t ext4 {disk} /mnt && mkdir -p /mnt/grub && cp /tmp/grub.cfg /mnt/grub/ && \
         cp /boot/vmlinuz /mnt/vmlinuz && cp /boot/guest.cpio /mnt/initrd && umount /mnt"
    ));
    fs::write(images.0.path().join("disk.raw"), contents(&host, disk))?;
    images.done("convert -f raw -O qcow2 -c disk.raw root.qcow2")?;
    images.done("create -f qcow2 data.qcow2 16M")?;
    images.done("create -f qcow2 -b data.qcow2 -F qcow2 backed.qcow2")?;
    for name in ["root.qcow2", "data.qcow2", "backed.qcow2"] {
        images.send(&host, name)?;
    }

    // What an image is, a person says; and what it has in other files is not read.
    for (document, cause) in [
        ("none", "begins like a qcow2 image. Write `format: qcow2` beside the path"),
        (
            "backed",
            "it has a backing file, and contents of other files are not read. `qemu-img rebase",
        ),
    ] {
        let refused = host.run(&format!("assign run -f {document}.yaml"))?;
        let told = refused.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(refused.code == 2 && told.contains(cause), "{cause}: {refused:?}");
    }

    // It boots from the one, and writes to both of them.
    let web = host.run_within("assign run -f web.yaml", GUEST_TIME)?;
    assert_eq!(web.code, 0, "{web:?}");
    assert!(web.stderr.contains("web: boots Lab, of its disk root"), "{web:?}");
    for disk in ["vda", "vdb"] {
        for line in ["1 MiB written and read back: equal", "0 bytes are left of what was discarded"]
        {
            assert!(web.stdout.contains(&format!("{disk}: {line}")), "{disk}: {line}: {web:?}");
        }
    }
    let wrote = |disk: &str| {
        let told = web.stdout.split(&format!("{disk}: wrote sha256 ")).nth(1);
        told.and_then(|rest| rest.get(..64)).unwrap_or_default().to_owned()
    };
    for (name, disk, half) in [("root.qcow2", "vda", 16), ("data.qcow2", "vdb", 8)] {
        images.fetch(&host, name)?;
        images.done(&format!("check {name}"))?;
        assert_eq!(images.sum(name, half)?, wrote(disk), "{name}");
    }

    // One that is killed as it writes leaves an image that is sound but for room that is lost.
    let db = guests::start(&host, "assign run -f db.yaml", GUEST_TIME)?;
    db.stdin("write vda 2\n");
    db.wait_for("guest: write vda 2: done", SOON)?;
    db.stdin("write vda 4\nwrite vda 5\nwrite vda 6\n");
    db.wait_for("guest: write vda 4: done", SOON)?;
    db.signal(9);
    guests::wait_until_none(&host);
    images.fetch(&host, "data.qcow2")?;
    let found = images.img("check data.qcow2")?;
    assert!(matches!(found, 0 | 3), "qemu-img check: exit code {found}");
    assert_eq!(images.sum("data.qcow2", 8)?, wrote("vdb"));
    Ok(())
}
