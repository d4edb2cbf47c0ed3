//! What a kernel does when certain attributes are written, for trees that are to behave: the VFs of
//! one PF come and go, fewer than asked or with an error if the test wants that, and drivers take
//! and leave functions. Everything else stays a written file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Function, Tree};
use crate::root::HostRoot;

/// What a PF's driver does when a VF is to have a number of MSI-X vectors.
pub type Divide = Arc<dyn Fn(u16) -> io::Result<()> + Send + Sync>;

/// What a PF's driver makes of a number of VFs.
pub type Enable = Arc<dyn Fn(u16) -> io::Result<u16> + Send + Sync>;

#[derive(Clone)]
struct Kernel {
    tree: Tree,
    pf: Function,
    enable: Enable,
    divide: Option<Divide>,
}

static KERNELS: Mutex<BTreeMap<PathBuf, Arc<Kernel>>> = Mutex::new(BTreeMap::new());

impl Tree {
    /// Lets this tree behave from now on. `pf` is the function as it was added; `enable` is asked
    /// for a number of VFs above 0, and says how many there will be.
    pub fn behave(
        &self,
        pf: Function,
        enable: impl Fn(u16) -> io::Result<u16> + Send + Sync + 'static,
    ) {
        let kernel = Kernel { tree: self.clone(), pf, enable: Arc::new(enable), divide: None };
        let mut kernels = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
        kernels.insert(self.directory.clone(), Arc::new(kernel));
    }

    /// As [`behave`](Self::behave), which comes first, with a driver that divides vectors.
    pub fn answer_vectors(&self, divide: impl Fn(u16) -> io::Result<()> + Send + Sync + 'static) {
        let mut kernels = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get_mut(&self.directory) {
            Arc::make_mut(kernel).divide = Some(Arc::new(divide));
        }
    }
}

/// What the file will hold after this write, for a tree that behaves.
///
/// # Errors
/// The kernel's answer to the write.
pub(crate) fn written(root: &HostRoot, path: &Path, value: &str) -> io::Result<Option<String>> {
    let kernel = {
        let kernels = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
        kernels.get(root.directory()).cloned()
    };
    match kernel {
        Some(kernel) => kernel.written(path, value.trim_end()),
        None => Ok(None),
    }
}

impl Kernel {
    fn written(&self, path: &Path, value: &str) -> io::Result<Option<String>> {
        let root = self.tree.root();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name {
            "sriov_numvfs" => self.set_count(value).map(Some),
            "sriov_vf_msix_count" => {
                let wanted = value.parse().map_err(|_| io::Error::from_raw_os_error(22))?;
                self.divide.as_ref().map_or(Ok(()), |divide| divide(wanted))?;
                Ok(None)
            }
            "drivers_probe" => {
                let device = root.pci_devices().join(value);
                let driver = fs::read_to_string(device.join("driver_override"))?;
                let driver = driver.trim();
                if root.pci_driver(driver).is_dir() && !device.join("driver").exists() {
                    let target = format!("../../bus/pci/drivers/{driver}");
                    std::os::unix::fs::symlink(target, device.join("driver"))?;
                }
                Ok(None)
            }
            "unbind" => {
                fs::remove_file(root.pci_devices().join(value).join("driver"))?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn set_count(&self, value: &str) -> io::Result<String> {
        let root = self.tree.root();
        let pf = root.pci_devices().join(self.pf.address);
        let wanted: u16 = value.parse().map_err(|_| io::Error::from_raw_os_error(22))?;
        let present = fs::read_to_string(pf.join("sriov_numvfs"))?;
        match (present.trim().parse::<u16>().unwrap_or(0), wanted) {
            (present, wanted) if present == wanted => {}
            (_, 0) => {
                self.tree.remove_vfs(self.pf.address.parse().expect("an address"))?;
            }
            // EBUSY: the kernel goes by way of none only.
            (1.., _) => return Err(io::Error::from_raw_os_error(16)),
            (0, wanted) => {
                let made = (self.enable)(wanted)?;
                self.tree.add_vfs(&self.pf, made);
                return Ok(format!("{made}\n"));
            }
        }
        Ok(format!("{wanted}\n"))
    }
}
