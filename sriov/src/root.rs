//! Where a host's files are: the only place that joins `/sys`, `/proc` and `/dev` paths.
//!
//! A root other than `/` is a recorded tree. It has files and no kernel, so facts that come from
//! system calls are left out there, and changes that need them are refused. A write below it stays
//! within the tree, whatever links a tree that somebody sent has, and never reaches a kernel: one
//! that is mounted there would be changed without half of what protects a host.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::address::PciAddress;

/// The directory below which `sys`, `proc` and `dev` lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoot {
    directory: PathBuf,
}

impl HostRoot {
    /// This host.
    pub fn live() -> HostRoot {
        HostRoot { directory: PathBuf::from("/") }
    }

    /// The tree below `directory`, as recorded or built for a test; `/` is this host.
    pub fn at(directory: impl Into<PathBuf>) -> HostRoot {
        HostRoot { directory: directory.into() }
    }

    /// Whether the kernel that runs this process is the one the files describe.
    pub fn is_live(&self) -> bool {
        self.directory == Path::new("/")
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether this root is not `/`, and yet shows a running kernel: a host's `/sys` or `/proc`
    /// mounted below a directory, as containers have them.
    pub fn borrows_a_kernel(&self) -> bool {
        /// Magic numbers of sysfs and procfs (uapi/linux/magic.h).
        const KERNEL: [i64; 2] = [0x6265_6572, 0x9fa0];
        let of_kernel = |name| {
            let found = rustix::fs::statfs(self.directory.join(name));
            found.is_ok_and(|found| KERNEL.contains(&found.f_type))
        };
        !self.is_live() && (of_kernel("sys") || of_kernel("proc"))
    }

    /// Opens a file that is there, to write to it. In a recorded tree the way to it may lead neither
    /// out of the tree nor onto another filesystem (openat2(2)).
    pub(crate) fn open_to_write(&self, path: &Path) -> io::Result<File> {
        if self.is_live() {
            return OpenOptions::new().write(true).truncate(true).open(path);
        }
        let out = || io::Error::other("it leads out of the recorded tree");
        let below = path.strip_prefix(&self.directory).map_err(|_| out())?;
        let tree = rustix::fs::openat(
            CWD,
            &self.directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // Not to wait for the reader of a pipe.
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(tree, below, flags, Mode::empty(), within) {
            Ok(file) => Ok(File::from(file)),
            Err(rustix::io::Errno::XDEV) => Err(out()),
            Err(error) => Err(error.into()),
        }
    }

    /// `/sys/bus/pci/devices`: one link per function.
    pub fn pci_devices(&self) -> PathBuf {
        self.directory.join("sys/bus/pci/devices")
    }

    /// One function's directory.
    pub fn pci_device(&self, address: PciAddress) -> PathBuf {
        self.pci_devices().join(address.to_string())
    }

    /// One function's attribute.
    pub fn pci_attribute(&self, address: PciAddress, attribute: &str) -> PathBuf {
        self.pci_device(address).join(attribute)
    }

    /// A PCI driver's directory; it exists while the driver is loaded.
    pub fn pci_driver(&self, driver: &str) -> PathBuf {
        self.directory.join("sys/bus/pci/drivers").join(driver)
    }

    /// The file that asks the kernel to find a driver for the address written to it.
    pub fn pci_drivers_probe(&self) -> PathBuf {
        self.directory.join("sys/bus/pci/drivers_probe")
    }

    /// A loaded kernel module's directory.
    pub fn module(&self, module: &str) -> PathBuf {
        self.directory.join("sys/module").join(module)
    }

    /// A file that `depmod` or the kernel's build leaves beside the modules of a kernel's release.
    pub fn kernel_module_file(&self, release: &str, file: &str) -> PathBuf {
        self.directory.join("lib/modules").join(release).join(file)
    }

    /// `/sys/kernel/iommu_groups`: one directory per group.
    pub fn iommu_groups(&self) -> PathBuf {
        self.directory.join("sys/kernel/iommu_groups")
    }

    /// `/sys/class/iommu`: one entry per IOMMU in use.
    pub fn iommu_class(&self) -> PathBuf {
        self.directory.join("sys/class/iommu")
    }

    /// An ACPI table that firmware offers, such as `DMAR`.
    pub fn acpi_table(&self, signature: &str) -> PathBuf {
        self.directory.join("sys/firmware/acpi/tables").join(signature)
    }

    /// `/sys/class/net`: one link per network interface of this network namespace.
    pub fn net_class(&self) -> PathBuf {
        self.directory.join("sys/class/net")
    }

    /// One network interface's directory.
    pub fn netdev(&self, name: &str) -> PathBuf {
        self.net_class().join(name)
    }

    /// The number that says whether an interface takes addresses and routes that routers advertise
    /// (Documentation/networking/ip-sysctl.rst, `accept_ra`).
    pub fn accept_ra(&self, netdev: &str) -> PathBuf {
        self.proc("sys/net/ipv6/conf").join(netdev).join("accept_ra")
    }

    /// `/sys/class/block`: one link per disk and partition.
    pub fn block_class(&self) -> PathBuf {
        self.directory.join("sys/class/block")
    }

    /// `/sys/fs/btrfs`: one directory per mounted btrfs, which may span devices.
    pub fn btrfs(&self) -> PathBuf {
        self.directory.join("sys/fs/btrfs")
    }

    /// A file of `/sys` that has no name of its own here, such as `kernel/mm/ksm/run`.
    pub fn sys(&self, file: &str) -> PathBuf {
        self.directory.join("sys").join(file)
    }

    /// A file of `/run`, such as `systemd/container`.
    pub fn run(&self, file: &str) -> PathBuf {
        self.directory.join("run").join(file)
    }

    /// A file right below the root, such as `.dockerenv`.
    pub fn top(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Where the modules of a kernel release and their indexes are; the release must be one
    /// component of a path.
    pub fn kernel_modules(&self, release: &str) -> PathBuf {
        self.directory.join("lib/modules").join(release)
    }

    /// What udev's rules found out about a block device, by its `major:minor`.
    pub fn udev_block(&self, number: &str) -> PathBuf {
        self.directory.join("run/udev/data").join(format!("b{number}"))
    }

    /// A file of `/proc`, such as `self/mountinfo`.
    pub fn proc(&self, file: &str) -> PathBuf {
        self.directory.join("proc").join(file)
    }

    /// A file of `/dev`, such as `kvm`.
    pub fn dev(&self, file: &str) -> PathBuf {
        self.directory.join("dev").join(file)
    }

    /// Whether `name` may be one component of a path below this root: an interface, driver or
    /// device name that comes from a person or a file is checked with this before it is joined.
    pub fn is_component(name: &str) -> bool {
        !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && {
            !name.contains(['/', '\0'])
        }
    }
}
