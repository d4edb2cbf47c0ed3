//! A controller that is asked and told, through its character device.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::time::Duration;

use super::command::{Action, Command, IDENTIFY_BYTES, Identify, Kind};
use super::identify::{self, Capabilities, Entry, Identity};
use super::{NvmeFacts, Secondary, Share, passthrough};
use crate::act::wait;
use crate::address::PciAddress;
use crate::attribute;
use crate::failure::{ChangeError, Reason};
use crate::root::HostRoot;
use crate::simulated::Kernel;

/// For a controller that is being reset to work again. The driver itself gives up sooner.
const COMES_BACK: Duration = Duration::from_secs(90);

/// An NVMe controller, open.
#[derive(Debug)]
pub struct Controller {
    pf: PciAddress,
    name: String,
    line: Line,
}

/// Who answers for it.
#[derive(Debug)]
enum Line {
    Device(File),
    Simulated(Kernel),
}

impl Controller {
    /// Opens the controller of a function that the kernel's nvme driver has.
    ///
    /// # Errors
    /// There is none, it does not work now, or this process may not.
    pub fn open(root: &HostRoot, pf: PciAddress) -> Result<Controller, ChangeError> {
        let name = name(root, pf)?;
        let failed = |cause: &str| {
            let message = format!("its controller {name} cannot be asked: {cause}");
            ChangeError::new(Reason::KernelRefused, pf, message)
        };
        let simulated = Kernel::of(root).map_err(|error| failed(&error.to_string()))?;
        if !root.is_live() && simulated.is_none() {
            let error = ChangeError::new(
                Reason::NotThisHost,
                pf,
                "a recorded tree has no controller that could be asked",
            );
            return Err(error.with_remedy("Leave out --root to change this host."));
        }
        // Commands wait for one that is being reset, for as long as it takes.
        let state = state(root, pf, &name).unwrap_or_else(|| "unknown".to_owned());
        if state != "live" {
            return Err(failed(&format!("its state is {state}, not live"))
                .with_remedy("The kernel's log (dmesg) says what became of it."));
        }
        if let Some(kernel) = simulated {
            return Ok(Controller { pf, name, line: Line::Simulated(kernel) });
        }
        let path = root.dev(&name);
        // NONBLOCK: whatever else has this name is not waited for.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path);
        let file = opened.map_err(|error| {
            let mut failure = failed(&format!("{}: {error}", path.display()));
            if error.kind() == io::ErrorKind::PermissionDenied {
                failure.reason = Reason::NotPermitted;
                failure = failure.with_remedy("Run assign as root.");
            }
            failure
        })?;
        if !is_the_device(root, pf, &name, &file) {
            return Err(failed(&format!("{} is another device", path.display()))
                .with_remedy("Mount devtmpfs on /dev."));
        }
        Ok(Controller { pf, name, line: Line::Device(file) })
    }

    /// Everything the plan needs of it.
    ///
    /// # Errors
    /// It does not know Virtualization Management ([`Reason::NotSriov`]), or does not answer, or
    /// not as it has to.
    pub fn facts(&self) -> Result<NvmeFacts, ChangeError> {
        let identity = Identity::parse(&*self.identify(Identify::Controller)?);
        if !identity.manages_virtualization {
            let message = "its controller has no secondary controllers to manage";
            return Err(ChangeError::new(Reason::NotSriov, self.pf, message));
        }
        let capabilities = self.capabilities(identity.controller)?;
        let mut secondaries = BTreeMap::new();
        for entry in self.secondaries(identity.controller)? {
            let Some(index) = entry.vf.checked_sub(1) else { continue };
            let secondary = Secondary { controller: entry.controller, state: entry.state };
            if secondaries.insert(index, secondary).is_some() {
                return Err(self.nonsense(&format!("two secondary controllers for VF {index}")));
            }
        }
        Ok(NvmeFacts {
            name: self.name.clone(),
            serial: identity.serial,
            controller: identity.controller,
            queues: capabilities.queues,
            interrupts: capabilities.interrupts,
            secondaries,
        })
    }

    /// Sets what the primary has of the pool from its next reset on, whatever it has now: that tells
    /// nothing of what it was last asked for.
    pub(crate) fn ask_for(&self, facts: &NvmeFacts, to: Share) -> Result<(), ChangeError> {
        for (kind, pool, number) in both(facts, to) {
            if pool.flexible {
                self.manage(facts.controller, Action::AllocateToPrimary(kind, number), || {
                    format!("set its own share of the {} to {number}", word(kind))
                })?;
            }
        }
        Ok(())
    }

    /// Sets what an offline secondary has of the pool.
    pub(crate) fn assign(
        &self,
        facts: &NvmeFacts,
        secondary: &Secondary,
        to: Share,
    ) -> Result<(), ChangeError> {
        let has = [secondary.state.queues, secondary.state.interrupts];
        for ((kind, pool, number), has) in both(facts, to).into_iter().zip(has) {
            if pool.flexible && has != number {
                let action = Action::AssignToSecondary(kind, number);
                self.manage(secondary.controller, action, || {
                    format!("give controller {} {number} {}", secondary.controller, word(kind))
                })?;
            }
        }
        Ok(())
    }

    /// Sets a secondary online, or offline, where it loses what it has of the pool.
    pub(crate) fn set_online(&self, secondary: u16, online: bool) -> Result<(), ChangeError> {
        let (action, state) = match online {
            true => (Action::Online, "online"),
            false => (Action::Offline, "offline"),
        };
        self.manage(secondary, action, || format!("set controller {secondary} {state}"))
    }

    fn manage(
        &self,
        controller: u16,
        action: Action,
        tried: impl Fn() -> String,
    ) -> Result<(), ChangeError> {
        let command = Command::virtualization(controller, action);
        self.submit(command, None).map_err(|error| {
            let message = format!("cannot {}: {}: {error}", tried(), self.name);
            self.error(&error, message)
        })
    }

    fn identify(&self, what: Identify) -> Result<Box<identify::Page>, ChangeError> {
        let mut page: Box<identify::Page> = Box::new([0; IDENTIFY_BYTES]);
        self.submit(what.into(), Some(&mut page)).map_err(|error| {
            let message = format!("its controller {} does not say what it has: {error}", self.name);
            self.error(&error, message)
        })?;
        Ok(page)
    }

    fn submit(&self, command: Command, page: Option<&mut identify::Page>) -> io::Result<()> {
        match &self.line {
            Line::Device(file) => passthrough::submit(file, command, page),
            Line::Simulated(kernel) => kernel.nvme(self.pf, command, page),
        }
    }

    fn error(&self, error: &io::Error, message: String) -> ChangeError {
        let failure = ChangeError::new(Reason::KernelRefused, self.pf, message);
        match error.kind() {
            io::ErrorKind::PermissionDenied => ChangeError {
                reason: Reason::NotPermitted,
                ..failure.with_remedy("Run assign as root.")
            },
            _ => failure,
        }
    }

    fn capabilities(&self, controller: u16) -> Result<Capabilities, ChangeError> {
        let page = self.identify(Identify::PrimaryCapabilities(controller))?;
        let capabilities = Capabilities::parse(&page);
        match capabilities.controller == controller {
            true => Ok(capabilities),
            false => Err(self.nonsense("the capabilities of another controller")),
        }
    }

    /// All secondaries of this primary, in as many lists as it takes.
    fn secondaries(&self, primary: u16) -> Result<Vec<Entry>, ChangeError> {
        let (mut all, mut first) = (Vec::new(), 0);
        loop {
            let page = self.identify(Identify::SecondaryList(first))?;
            let entries =
                identify::secondaries(&page, first).map_err(|cause| self.nonsense(&cause))?;
            let (full, last) = (entries.len() == identify::MOST_ENTRIES, entries.last().copied());
            all.extend(entries.into_iter().filter(|entry| entry.primary == primary));
            // Each list begins above the one before, so this ends.
            match last.and_then(|entry| entry.controller.checked_add(1)) {
                Some(next) if full => first = next,
                _ => return Ok(all),
            }
        }
    }

    fn nonsense(&self, what: &str) -> ChangeError {
        let message = format!("its controller {} gives nonsense: {what}", self.name);
        ChangeError::new(Reason::KernelRefused, self.pf, message)
            .with_remedy("Newer firmware for the drive may help.")
    }
}

/// Resets the function, with the driver's knowledge: its input and output wait and go on after. Not
/// every reset makes the primary's share take effect, but that of the whole function does.
pub(crate) fn reset(root: &HostRoot, pf: PciAddress) -> Result<(), ChangeError> {
    let path = root.pci_attribute(pf, "reset");
    attribute::write(root, &path, "1\n")
        .map_err(|error| ChangeError::attribute(pf, "reset it", &error))?;
    let name = name(root, pf)?;
    if wait(COMES_BACK, || state(root, pf, &name).as_deref() == Some("live")) {
        return Ok(());
    }
    let state = state(root, pf, &name).unwrap_or_else(|| "gone".to_owned());
    let message = format!("its controller {name} did not come back from a reset: it is {state}");
    Err(ChangeError::new(Reason::NotObserved, pf, message)
        .with_remedy("The kernel's log (dmesg) says why; the drive may need its power cycled."))
}

/// `nvme0`, from the function's directory.
fn name(root: &HostRoot, pf: PciAddress) -> Result<String, ChangeError> {
    let entries = attribute::entries(&root.pci_attribute(pf, "nvme"))
        .map_err(|error| ChangeError::attribute(pf, "find its NVMe controller", &error))?;
    let is_name = |name: &&String| {
        let number = name.strip_prefix("nvme").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    entries.iter().find(is_name).cloned().ok_or_else(|| {
        let message = "has no NVMe controller by which its VFs could be set up";
        ChangeError::new(Reason::NoInterface, pf, message)
            .with_remedy("Bind the kernel's nvme driver to it.")
    })
}

fn state(root: &HostRoot, pf: PciAddress, name: &str) -> Option<String> {
    attribute::read(&root.pci_attribute(pf, "nvme").join(name).join("state")).ok().flatten()
}

/// Whether what was opened is the character device that the kernel shows for the controller.
fn is_the_device(root: &HostRoot, pf: PciAddress, name: &str, file: &File) -> bool {
    let number = attribute::read(&root.pci_attribute(pf, "nvme").join(name).join("dev"));
    file.metadata().is_ok_and(|file| {
        let (major, minor) = (rustix::fs::major(file.rdev()), rustix::fs::minor(file.rdev()));
        file.file_type().is_char_device()
            && number.ok().flatten().is_some_and(|number| number == format!("{major}:{minor}"))
    })
}

fn both(facts: &NvmeFacts, share: Share) -> [(Kind, identify::Pool, u16); 2] {
    [
        (Kind::Queues, facts.queues, share.queues),
        (Kind::Interrupts, facts.interrupts, share.interrupts),
    ]
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Queues => "queues",
        Kind::Interrupts => "interrupts",
    }
}
