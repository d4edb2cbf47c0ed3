//! What a scenario wants its host to look like, and the QEMU arguments that make it so.
//!
//! Devices have fixed places, so that a scenario can name them: the `igb` ports are 0000:01:00.0,
//! 0000:02:00.0, … (their functions 0000:01:10.0, .2, … and so on), a shared group lies on the bus
//! after them, an NVMe drive on the one after that, and what the lab itself needs and cards of other
//! kinds are on bus 0.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::archive::Tree;
use crate::debian::Debian;
use crate::host::Host;
use crate::host_kernel::HostKernel;
use crate::setup::Ready;
use crate::udevd::Udevd;
use crate::{AGENT_PORT, image, peer, setup, tsc};

/// More memory than this pushes the 64-bit PCI window above 4 GiB, where QEMU before 10.0.6 decodes
/// the functions' BARs wrongly: every register then reads 0.
const MEMORY: &str = "2700M";
/// Half of it.
const HALF: &str = "1350M";

/// What every kernel of the lab is told. The timer check counts ticks in a busy loop and panics on a
/// machine too busy to emulate them in time. The last two leave out self-tests of ciphers nobody
/// uses here, which take most of a second under emulation.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr \
     no_timer_check cryptomgr.notests initcall_blacklist=crypto_kdf108_init,jent_mod_init";

/// Bytes of each disk of an NVMe drive; they take room only where something is written.
const NVME_DISK: u64 = 32 << 20;

/// The shape of a host that is yet to be booted.
pub struct Shape {
    iommu: bool,
    igb: u8,
    nvme: bool,
    nodes: bool,
    giant_page: bool,
    display: bool,
    cards: bool,
    frail: bool,
    large_bar: bool,
    bridge: bool,
    debian: bool,
    shared_group: bool,
    kvm: bool,
    vmlinux: bool,
    counted: bool,
    iommufd: bool,
    udevd: bool,
    qemu: bool,
    limit: Duration,
    additions: Tree,
}

impl Host {
    /// A host with an Intel IOMMU (VT-d) and interrupt remapping, KVM, and no network card.
    pub fn intel() -> Shape {
        Shape {
            iommu: true,
            igb: 0,
            nvme: false,
            nodes: false,
            giant_page: false,
            display: false,
            cards: false,
            frail: false,
            large_bar: false,
            bridge: false,
            debian: false,
            shared_group: false,
            kvm: true,
            vmlinux: false,
            counted: false,
            iommufd: false,
            udevd: false,
            qemu: false,
            limit: Duration::from_secs(300),
            additions: Tree::default(),
        }
    }

    /// The same without an IOMMU.
    pub fn no_iommu() -> Shape {
        Shape { iommu: false, ..Host::intel() }
    }
}

impl Shape {
    /// Gives the host `count` Intel 82576 ports (`igb`: eth0, eth1, …; at most 8), each with 7
    /// virtual functions, a PCIe root port of its own and a network of its own, in which 10.0.2.2
    /// (10.0.12.2, 10.0.22.2, …) hands out leases and answers pings.
    pub fn igb(mut self, count: u8) -> Self {
        assert!(count <= 8, "a host has at most 8 igb ports");
        self.igb = count;
        self
    }

    /// Gives the host an NVMe drive with 32 virtual functions, on the bus after all igb ports and the
    /// shared group: 0000:01:00.0 where there is neither, its functions 0000:01:00.1 to 0000:01:04.0.
    ///
    /// It has two empty disks of 32 MiB: /dev/nvme0n1, which every function reaches, and
    /// /dev/nvme0n2, which is the physical function's alone. `mke2fs` and `mount -t ext4` make them
    /// carry a file system. Its controller is /dev/nvme0. Of what functions share it
    /// has 76 queues (up to 8 of 72 for each virtual function) and 45 interrupts (up to 4 of 40), all
    /// of them the physical function's own at first.
    pub fn nvme(mut self) -> Self {
        self.nvme = true;
        self
    }

    /// Gives the host a way out of its own: bridge br0 with the port uplink0 in it, in whose network
    /// 10.0.3.2 hands out leases and answers pings.
    pub fn bridge(mut self) -> Self {
        self.bridge = true;
        self
    }

    /// Gives the host a disk with a stock system of the distribution, for a guest to boot: /dev/vda. What is
    /// written to it is gone with the host.
    pub fn debian(mut self) -> Self {
        self.debian = true;
        self
    }

    /// Gives the host two functions (`e1000e`) that share one IOMMU group, because nothing keeps
    /// them from reaching each other (a device of several functions without ACS). In their networks
    /// 10.0.6.2 and 10.0.7.2 hand out leases.
    pub fn shared_group(mut self) -> Self {
        self.shared_group = true;
        self
    }

    /// Gives the host two NUMA nodes, each with half of the memory. The processor is in node 0.
    pub fn nodes(mut self) -> Self {
        self.nodes = true;
        self
    }

    /// Has the host set one page of 1 GiB apart when it starts: later there is hardly one whole.
    pub fn giant_page(mut self) -> Self {
        self.giant_page = true;
        self
    }

    /// Gives the host a display that firmware boots on, 0000:00:17.0, for which it has no driver.
    pub fn display(mut self) -> Self {
        self.display = true;
        self
    }

    /// Gives the host cards of other kinds, without drivers and each in a group of its own:
    /// - 0000:00:1a.0, a network card with INTx, an I/O BAR and nothing newer (`e1000`), in whose
    ///   network 10.0.4.2 hands out leases;
    /// - 0000:00:1b.0, a USB controller with MSI but no MSI-X, and a stick of 32 MiB in it;
    /// - 0000:00:1c.0, QEMU's `edu`: a DMA engine and INTx or MSI, for which no kernel has a driver;
    /// - 0000:00:1d.0, a virtio network card that uses the IOMMU, in whose network 10.0.5.2 hands out
    ///   leases.
    pub fn cards(mut self) -> Self {
        self.cards = true;
        self
    }

    /// Gives the host a network card (virtio) whose errors it hears of, for [`Host::inject_error`] by
    /// the name `frail`: QEMU's igb has the registers for that and does not let them be set. It has a
    /// root port of its own, and 10.0.8.2 hands out leases in its network.
    pub fn frail(mut self) -> Self {
        self.frail = true;
        self
    }

    /// Gives the host a card with 16 GiB of memory behind a BAR and a ROM, 0000:00:1e.0, without a driver
    /// (`ivshmem`). What is written into the memory stays, also when the card has no user. The ROM is
    /// [`ROM`]. A host that has it cannot have igb cards: QEMU 10.0 mistakes where VFs have BARs above
    /// 4 GiB, and firmware places all 64-bit BARs there where one is so large.
    pub fn large_bar(mut self) -> Self {
        self.large_bar = true;
        self
    }

    /// Lets the host run the lab's own kernel, in which devices can be had by iommufd, and by type1
    /// too. It has no modules, and of drivers and file systems only what a host of igb cards, an NVMe
    /// drive, a shared group and a bridge takes.
    pub fn iommufd(mut self) -> Self {
        self.iommufd = true;
        self
    }

    /// Lets udevd run, with no rules but those that are added below /etc/udev/rules.d.
    pub fn udevd(mut self) -> Self {
        self.udevd = true;
        self
    }

    /// Leaves KVM out: there is no /dev/kvm.
    pub fn no_kvm(mut self) -> Self {
        self.kvm = false;
        self
    }

    /// Adds /boot/vmlinux, the ELF image of the kernel, which a guest can boot by PVH.
    pub fn vmlinux(mut self) -> Self {
        self.vmlinux = true;
        self
    }

    /// Lets the host's clock count instructions, a nanosecond each, and skip what time it would be
    /// idle: what `/proc/uptime` measures then is repeatable to about 1 %, whatever else this machine
    /// does. The host has one CPU, and its network's answers take no time.
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// Gives the host this machine's QEMU, to be started by [`crate::peer::command`].
    pub fn qemu(mut self) -> Self {
        self.qemu = true;
        self
    }

    /// Adds a file.
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.additions.file(path, content);
        self
    }

    /// Sets how long the host may live at most, from its start (5 minutes if not set). A scenario
    /// that takes longer is taken for hung: the host is ended, and its console shown.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Boots the host and waits until commands can be run in it.
    pub fn boot(mut self) -> Result<Host> {
        let ready = setup::present()?;
        image::build_programs()?;
        self.add_programs(&ready)?;
        Host::start(&ready, &self)
    }

    /// Boots the host with a shell on this terminal and returns when the host is powered off.
    pub fn shell(mut self, ready: &Ready, scratch: &Path) -> Result<()> {
        self.add_programs(ready)?;
        let mut command = self.command(ready, scratch, "lab.shell")?;
        command.args(["-serial", "mon:stdio"]);
        let status = command.status().context("cannot run QEMU")?;
        ensure!(status.success(), "QEMU has ended ({status}); what it said is above");
        Ok(())
    }

    /// Adds the files of others that this host was asked to have.
    fn add_programs(&mut self, ready: &Ready) -> Result<()> {
        if self.vmlinux {
            self.additions.copy("boot/vmlinux", &ready.kit.vmlinux())?;
        }
        if self.udevd {
            Udevd::present()?.add(&mut self.additions)?;
        }
        if self.qemu {
            peer::add(&mut self.additions, &ready.qemu)?;
        }
        Ok(())
    }

    /// How long the host may live.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted
    }

    pub(crate) fn time_limit(&self) -> Duration {
        self.limit
    }

    /// QEMU with everything but a console and the agent's port. What it starts from and its disks
    /// are made in the folder `scratch`.
    pub(crate) fn command(&self, ready: &Ready, scratch: &Path, option: &str) -> Result<Command> {
        let initrd = scratch.join("initrd.cpio");
        image::write_host(&ready.kit, &self.additions, &initrd)?;
        self.make_disks(scratch)?;
        let processor = if self.counted { COUNTED } else { ONE };
        let mut command = base(ready, "q35,kernel-irqchip=split", processor, MEMORY);
        let mut cmdline = format!("{CMDLINE} intel_iommu=on iommu=pt {option}");
        if !self.counted {
            // Where instructions are the clock, what the host finds out itself is right.
            write!(cmdline, " tsc_early_khz={}", tsc::khz())?;
        }
        if self.nodes {
            for (node, of_node) in
                ["node,nodeid=0,cpus=0,memdev=", "node,nodeid=1,memdev="].iter().enumerate()
            {
                let half = format!("memory-backend-ram,id=half{node},size={HALF}");
                command.args(["-object", &half, "-numa", &format!("{of_node}half{node}")]);
            }
        }
        if self.giant_page {
            cmdline.push_str(" hugepagesz=1G hugepages=1");
        }
        if !self.kvm {
            cmdline.push_str(" lab.kvm=no");
        }
        if self.bridge {
            cmdline.push_str(" lab.bridge");
        }
        if self.shared_group {
            cmdline.push_str(" lab.shared");
        }
        if self.nvme {
            cmdline.push_str(" lab.nvme");
        }
        if self.debian {
            cmdline.push_str(" lab.debian");
        }
        if self.udevd {
            cmdline.push_str(" lab.udevd");
        }
        // The ELF image, by PVH: decompressing it is a second of an emulated processor's time.
        let kernel = match self.iommufd {
            true => HostKernel::present()?.vmlinux(),
            false => ready.kit.vmlinux(),
        };
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        command.args(["-append", &cmdline]);
        for device in self.devices(scratch) {
            command.args(device);
        }
        if self.debian {
            let disk = Debian::present()?.disk();
            let what = "if=none,id=debian,format=raw,snapshot=on";
            command.arg("-drive").arg(format!("file={},{what}", disk.display()));
            command.args(["-device", "virtio-blk-pci,addr=0x16,drive=debian"]);
        }
        Ok(command)
    }

    /// Makes the files that the host's disks are, in the folder of the host.
    fn make_disks(&self, scratch: &Path) -> Result<()> {
        let drive = [1, 2].into_iter().filter(|_| self.nvme).map(nvme_disk);
        if self.large_bar {
            let path = scratch.join(ROM_FILE);
            std::fs::write(&path, rom())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        for disk in drive.chain(self.cards.then(|| STICK.to_owned())) {
            let path = scratch.join(disk);
            let made = File::create(&path).and_then(|file| file.set_len(NVME_DISK));
            made.with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(())
    }

    /// The devices, each as an option and its value.
    fn devices(&self, scratch: &Path) -> Vec<[String; 2]> {
        let mut devices = Vec::new();
        let mut add = |option: &str, value: String| devices.push([option.to_owned(), value]);
        if self.iommu {
            add("-device", "intel-iommu,intremap=on".into());
        }
        for port in 0..self.igb {
            // Places on bus 0 from 2 on; slots and chassis numbers must differ between ports.
            add("-device", root_port(port, 2 + port));
            add("-netdev", network(&format!("lan{port}"), 2 + 10 * port));
            let mac = format!("52:54:00:00:01:{port:02x}");
            add("-device", format!("igb,bus=port{port},netdev=lan{port},mac={mac}"));
        }
        if self.shared_group {
            add("-device", root_port(self.igb, 0x10));
            for function in 0..2 {
                let mac = format!("52:54:00:00:02:{function:02x}");
                let multi = if function == 0 { ",multifunction=on" } else { "" };
                let place = format!("bus=port{},addr=0.{function}{multi}", self.igb);
                let id = format!("twin{function}");
                add("-netdev", network(&id, 6 + function));
                add("-device", format!("e1000e,{place},netdev={id},mac={mac},romfile="));
            }
        }
        if self.nvme {
            self.add_nvme(&mut add, scratch);
        }
        if self.frail {
            let port = self.igb + u8::from(self.shared_group) + u8::from(self.nvme);
            add("-device", root_port(port, 0x12));
            add("-netdev", network("frail", 8));
            let place = format!("bus=port{port},netdev=frail,mac=52:54:00:00:08:00,romfile=");
            let uses = "disable-legacy=on,iommu_platform=on,aer=on";
            add("-device", format!("virtio-net-pci,id=frail,{place},{uses}"));
        }
        if self.display {
            add("-device", "VGA,addr=0x17".into());
        }
        if self.cards {
            add("-netdev", network("card", 4));
            let place = "addr=0x1a,netdev=card,mac=52:54:00:00:04:00,romfile=";
            add("-device", format!("e1000,{place}"));
            let stick = scratch.join(STICK);
            add("-device", "qemu-xhci,id=usb,addr=0x1b,msi=on,msix=off".into());
            add("-drive", format!("file={},if=none,id=stick,format=raw", stick.display()));
            add("-device", "usb-storage,bus=usb.0,drive=stick".into());
            // It moves data to and from anywhere: by default only below 256 MiB.
            add("-device", "edu,addr=0x1c,dma_mask=0xffffffffff".into());
            add("-netdev", network("virtio", 5));
            let place = "addr=0x1d,netdev=virtio,mac=52:54:00:00:05:00,romfile=";
            add("-device", format!("virtio-net-pci,{place},disable-legacy=on,iommu_platform=on"));
        }
        if self.large_bar {
            assert!(self.igb == 0, "VFs of igb cards have no BARs above 4 GiB");
            add("-object", format!("memory-backend-memfd,id=large,size={LARGE_BAR},share=on"));
            let rom = scratch.join(ROM_FILE);
            let place = format!("addr=0x1e,memdev=large,romfile={}", rom.display());
            add("-device", format!("ivshmem-plain,{place}"));
        }
        if self.bridge {
            add("-netdev", network("uplink", 3));
            let place = "addr=0x18,netdev=uplink,mac=52:54:00:00:03:00,romfile=";
            add("-device", format!("virtio-net-pci,{place}"));
        }
        devices
    }

    /// A drive with Virtualization Enhancements: what its virtual functions get, the physical one
    /// has to give up first.
    fn add_nvme(&self, add: &mut impl FnMut(&str, String), scratch: &Path) {
        let port = self.igb + u8::from(self.shared_group);
        add("-device", root_port(port, 0x11));
        add("-device", "nvme-subsys,id=drive,nqn=lab".into());
        let shares = "sriov_max_vfs=32,sriov_vq_flexible=72,sriov_max_vq_per_vf=8,\
                      sriov_vi_flexible=40,sriov_max_vi_per_vf=4,max_ioqpairs=76,msix_qsize=45";
        add(
            "-device",
            format!("nvme,id=nvme,bus=port{port},subsys=drive,serial=lab-nvme,{shares}"),
        );
        for (disk, shared) in [(1, "on"), (2, "off")] {
            let file = scratch.join(nvme_disk(disk));
            let file = file.display();
            add("-drive", format!("file={file},if=none,id=disk{disk},format=raw"));
            let place = format!("bus=nvme,nsid={disk},shared={shared}");
            add("-device", format!("nvme-ns,drive=disk{disk},{place}"));
        }
    }

    /// The arguments that give the host a port to its agent, whose other end is descriptor `fd`.
    pub(crate) fn agent_port(fd: i32) -> [String; 6] {
        [
            "-device".into(),
            "virtio-serial-pci,addr=0x19,id=agents".into(),
            "-chardev".into(),
            format!("socket,id=agent,fd={fd}"),
            "-device".into(),
            format!("virtserialport,bus=agents.0,chardev=agent,name={AGENT_PORT}"),
        ]
    }

    /// The arguments that give QEMU a monitor, whose other end is descriptor `fd`.
    pub(crate) fn monitor(fd: i32) -> [String; 4] {
        let socket = format!("socket,id=monitor,fd={fd}");
        ["-chardev".into(), socket, "-mon".into(), "chardev=monitor,mode=control".into()]
    }
}

/// Bytes of the large BAR.
pub const LARGE_BAR: u64 = 16 << 30;
const ROM_FILE: &str = "card.rom";
/// What the ROM of the card with the large BAR says, from byte 64 on.
pub const ROM: &str = "the lab's own ROM";

/// An expansion ROM of 1 KiB with nothing that firmware would run (PCI Firmware Specification 3.0,
/// section 5.1: header and data structure; code type 3 is for EFI, which the lab has not).
fn rom() -> Vec<u8> {
    let mut rom = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x55, 0xaa, 2]);
    put(0x18, &[0x1c, 0]);
    // Vendor, device, no list, its own length and revision, class, length in units of 512, type, last.
    put(0x1c, b"PCIR\xf4\x1a\x10\x11\0\0\x18\0\0\0\0\x05\x02\0\0\0\x03\x80");
    put(0x40, ROM.as_bytes());
    rom
}

/// The file that the USB stick is.
const STICK: &str = "stick.img";

/// A network in which 10.0.THIRD.2 hands out leases, and 10.0.THIRD.100 sends back what comes to its
/// port 7. QEMU's router would advertise itself over IPv6
/// too, some seconds later, and a scenario would find a default route that it did not see before.
fn network(id: &str, third: u8) -> String {
    let echo = format!("guestfwd=tcp:10.0.{third}.100:7-cmd:cat");
    format!("user,id={id},net=10.0.{third}.0/24,ipv6=off,{echo}")
}

fn nvme_disk(number: u8) -> String {
    format!("nvme{number}.img")
}

fn root_port(number: u8, place: u8) -> String {
    format!("pcie-root-port,id=port{number},chassis={0},slot={0},addr={place:#x}", number + 1)
}

/// One processor. QEMU 10.0 makes mistakes where it emulates two, at times with one thread for each
/// and soon with one for both: a breakpoint stays in a kernel that has taken it away, a processor is
/// never woken, a guest's CPU is interrupted where it has forbidden that. Two hosts at once use two
/// processors of ours just as well.
pub(crate) const ONE: &[&str] = &["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1"];

/// As [`ONE`], with a clock of instructions. `shift=1` would leave some guests spinning for ever.
/// String instructions without "fast" variants, so that clearing memory costs about as much, beside
/// other work, as on hardware: else each byte would count as an instruction.
const COUNTED: &[&str] = &[
    "-accel",
    "tcg,thread=single",
    "-icount",
    "shift=0,sleep=off",
    "-cpu",
    "max,erms=off,fsrm=off",
    "-smp",
    "1",
];

/// QEMU with what every machine of the lab has.
pub(crate) fn base(ready: &Ready, machine: &str, processor: &[&str], memory: &str) -> Command {
    let mut command = Command::new(&ready.qemu);
    command.args(["-machine", machine]).args(processor);
    command.args(["-m", memory, "-no-user-config", "-nodefaults", "-display", "none"]);
    // A machine that reboots has ended: nothing in the lab wants a second boot unseen.
    command.arg("-no-reboot");
    command
}
