//! Test support: a machine without KVM, and devices without VFIO, for what lies between a guest and a
//! device it was given.
//!
//! [`Host`] stands for KVM and the IOMMU, [`Endpoint`] for the kernel behind an open device and the
//! device itself. Both refuse what the real ones refuse. Where we would have harmed a host, or shown a
//! guest what it must not have, they panic; what the kernel would merely have said no to is kept for
//! [`Host::take_misuse`]. The next call, or a later one, can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvm_bindings::kvm_userspace_memory_region;
use rustix::fs::{MemfdFlags, memfd_create};
use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Surroundings, VfioFunction};
use super::dma::{DeviceFile, DmaMapper, Entrance, IoSpace, Mapped};
use super::sys::{Device, Kernel, Request};
use crate::bus::Bus;
use crate::error::{Error, Result, Trying};
use crate::machine::interrupts::{Delivery, Gsi, Lines, Message};
use crate::machine::latch::Latch;
use crate::machine::memory::{SlotHolder, Slots};
use crate::pci::bar::{BAR_COUNT, ROM_INDEX, Windows};
use crate::pci::register;
use crate::pci::root::RootComplex;
use crate::spec;
use crate::timeline::Timeline;

/// Where the machine's BARs may decode.
pub const WINDOWS: Windows =
    Windows { low: 0xc000_0000..0xe000_0000, high: 1 << 36..1 << 37, ports: 0x1000..0x1_0000 };
/// Where it has RAM.
pub const RAM: [Range<u64>; 2] = [0..0xc000_0000, 1 << 32..1 << 36];
/// Its memory slots: more than its devices can need.
const SLOTS: u32 = 96;
const PAGE: u64 = 4096;

/// A mapping of device memory, for the guest's CPUs or for its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// The guest's address, which is the I/O address too.
    pub guest: u64,
    /// Bytes.
    pub length: u64,
    /// Address in this process.
    pub host: u64,
}

impl Shown {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.guest < range.end && range.start < self.guest + self.length
    }

    fn check(&self) {
        let Shown { guest, length, host } = *self;
        assert!(length > 0 && [guest, length, host].iter().all(|value| value % PAGE == 0));
        let end = guest.checked_add(length).expect("an end");
        let within = |window: &Range<u64>| guest >= window.start && end <= window.end;
        assert!(within(&WINDOWS.low) || within(&WINDOWS.high), "{self:x?} is outside the windows");
        assert!(!RAM.iter().any(|ram| self.overlaps(ram)), "{self:x?} is over RAM");
    }
}

/// KVM and the IOMMU.
#[derive(Default)]
pub struct Host(Mutex<State>);

#[derive(Default)]
struct State {
    /// Calls that still succeed before one fails.
    until_failure: Option<u32>,
    /// Something was refused that need not have been.
    refused: bool,
    misuse: Vec<String>,
    /// Devices there have been.
    endpoints: usize,
    slots: BTreeMap<u32, Shown>,
    peers: BTreeSet<Shown>,
    next_gsi: u32,
    /// Reserved ones: whether they are routed, and the event that is connected.
    gsis: BTreeMap<u32, (bool, Option<i32>)>,
    /// Connected events of lines.
    lines: BTreeSet<i32>,
}

impl State {
    /// An event raises one interrupt. One that could not be disconnected and was closed may have left
    /// its number to another.
    fn expect_free(&self, event: &EventFd) {
        assert!(self.refused || !self.connected(event.as_raw_fd()), "it raises another interrupt");
    }

    fn connected(&self, event: i32) -> bool {
        self.lines.contains(&event) || self.gsis.values().any(|(_, other)| *other == Some(event))
    }
}

impl Host {
    /// Lets one call fail: the next, or as many later. Until then, and afterwards, they succeed.
    pub fn fail_after(&self, calls: u32) {
        crate::lock(&self.0).until_failure = Some(calls);
    }

    /// Does what `look` does, without any call that fails for it.
    pub fn unfailing<T>(&self, look: impl FnOnce() -> T) -> T {
        let until = crate::lock(&self.0).until_failure.take();
        let seen = look();
        crate::lock(&self.0).until_failure = until;
        seen
    }

    /// Whether a call has failed that would have succeeded on a host that has enough of everything.
    pub fn has_refused(&self) -> bool {
        crate::lock(&self.0).refused
    }

    /// What was asked that no host would have done, since the last time.
    pub fn take_misuse(&self) -> Vec<String> {
        std::mem::take(&mut crate::lock(&self.0).misuse)
    }

    /// What the guest's CPUs reach directly.
    pub fn slots(&self) -> Vec<Shown> {
        crate::lock(&self.0).slots.values().copied().collect()
    }

    /// What its devices reach of each other.
    pub fn peers(&self) -> Vec<Shown> {
        crate::lock(&self.0).peers.iter().copied().collect()
    }

    /// GSIs in use.
    pub fn reserved(&self) -> usize {
        crate::lock(&self.0).gsis.len()
    }

    /// Events that raise interrupts, of messages and of lines.
    pub fn connected(&self) -> usize {
        let state = crate::lock(&self.0);
        state.lines.len() + state.gsis.values().filter(|(_, event)| event.is_some()).count()
    }

    /// Whether this call succeeds.
    fn call(&self) -> io::Result<()> {
        let mut state = crate::lock(&self.0);
        match state.until_failure {
            Some(0) => {
                state.until_failure = None;
                state.refused = true;
                Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()))
            }
            Some(calls) => {
                state.until_failure = Some(calls - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn refuse(&self) {
        crate::lock(&self.0).refused = true;
    }

    fn misuse(&self, what: String) -> io::Error {
        crate::lock(&self.0).misuse.push(what);
        invalid()
    }
}

fn invalid() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidInput)
}

impl SlotHolder for Host {
    unsafe fn set_slot(&self, region: kvm_userspace_memory_region) -> io::Result<()> {
        self.call()?;
        let mut state = crate::lock(&self.0);
        if region.memory_size == 0 {
            let removed = state.slots.remove(&region.slot);
            assert!(removed.is_some(), "slot {} is not in use", region.slot);
            return Ok(());
        }
        let shown = Shown {
            guest: region.guest_phys_addr,
            length: region.memory_size,
            host: region.userspace_addr,
        };
        shown.check();
        let taken = shown.guest..shown.guest + shown.length;
        if let Some(other) = state.slots.values().find(|other| other.overlaps(&taken)) {
            // One that could not be removed may be in the way.
            assert!(state.refused, "{shown:x?} is over {other:x?}");
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let replaced = state.slots.insert(region.slot, shown);
        assert_eq!(replaced, None, "slot {} is in use", region.slot);
        Ok(())
    }
}

/// The address space of an IOMMU. What is asked of it comes from BARs only.
struct Mapper(Arc<Host>);

impl DmaMapper for Mapper {
    fn file(&self) -> &'static str {
        "/dev/simulated"
    }

    fn wait_for_devices(&self) {}

    fn iova_ranges(&self) -> Result<Vec<(u64, u64)>> {
        Ok(Vec::new())
    }

    unsafe fn map(&self, iova: u64, host: *mut u8, length: u64, kind: Mapped) -> Result<()> {
        let mapped = || {
            self.0.call()?;
            assert_eq!(kind, Mapped::Registers);
            let shown = Shown { guest: iova, length, host: host as u64 };
            shown.check();
            let mut state = crate::lock(&self.0.0);
            if state.peers.iter().any(|other| other.overlaps(&(iova..iova + length))) {
                assert!(state.refused, "{shown:x?} is over another mapping");
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            state.peers.insert(shown);
            Ok(())
        };
        mapped().system("map")
    }

    fn unmap(&self, iova: u64, length: u64) -> Result<()> {
        let unmapped = || {
            self.0.call()?;
            let mut state = crate::lock(&self.0.0);
            let found = state.peers.iter().find(|one| (one.guest, one.length) == (iova, length));
            let found = *found.expect("it is mapped");
            state.peers.remove(&found);
            io::Result::Ok(())
        };
        unmapped().system("unmap")
    }

    fn admit(&self, file: DeviceFile) -> Result<Arc<dyn Entrance>> {
        Err(Error::Spec(format!("{file:?}")))
    }

    fn filling(&self) -> Option<u64> {
        Some(1)
    }
}

impl Delivery for Host {
    fn reserve(&self) -> Result<Gsi> {
        self.call().kvm("reserve")?;
        let mut state = crate::lock(&self.0);
        let number = state.next_gsi;
        state.next_gsi += 1;
        state.gsis.insert(number, (false, None));
        Ok(Gsi(number))
    }

    fn route(&self, gsi: Gsi, _: Message) -> Result<()> {
        self.call().kvm("route")?;
        crate::lock(&self.0).gsis.get_mut(&gsi.0).expect("a reserved GSI").0 = true;
        Ok(())
    }

    fn connect(&self, gsi: Gsi, event: &EventFd) -> Result<()> {
        self.call().kvm("connect")?;
        let mut state = crate::lock(&self.0);
        state.expect_free(event);
        let (routed, connected) = state.gsis.get_mut(&gsi.0).expect("a reserved GSI");
        assert!(*routed, "an event is connected to no route");
        assert_eq!(connected.replace(event.as_raw_fd()), None, "it has another event");
        Ok(())
    }

    fn disconnect(&self, gsi: Gsi, event: &EventFd) -> Result<()> {
        self.call().kvm("disconnect")?;
        let mut state = crate::lock(&self.0);
        let (_, connected) = state.gsis.get_mut(&gsi.0).expect("a reserved GSI");
        assert_eq!(connected.take(), Some(event.as_raw_fd()));
        Ok(())
    }

    fn release(&self, gsi: Gsi) {
        let released = crate::lock(&self.0).gsis.remove(&gsi.0).expect("a reserved GSI");
        assert_eq!(released.1, None, "an event is still connected");
    }
}

impl Lines for Host {
    fn connect(&self, _pin: u32, asserted: &EventFd, _ended: &EventFd) -> Result<()> {
        self.call().kvm("connect a line")?;
        let mut state = crate::lock(&self.0);
        state.expect_free(asserted);
        state.lines.insert(asserted.as_raw_fd());
        Ok(())
    }

    fn disconnect(&self, _pin: u32, asserted: &EventFd) -> Result<()> {
        self.call().kvm("disconnect a line")?;
        assert!(crate::lock(&self.0).lines.remove(&asserted.as_raw_fd()), "it is not connected");
        Ok(())
    }
}

/// What a device is like.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// Its configuration space: 256 or 4096 bytes.
    pub config: Vec<u8>,
    /// Sizes of its BARs in bytes; 0 where there is none.
    pub bars: [u64; BAR_COUNT],
    /// Bytes of its ROM; 0 where there is none.
    pub rom: u64,
    /// Which of them can be mapped, and of these the only parts that can, if the kernel lists some.
    pub mappable: [Option<Vec<(u64, u64)>>; BAR_COUNT],
    /// Vectors by interrupt index: INTx, MSI, MSI-X.
    pub interrupts: [u32; 3],
    /// Vectors can be added while there are others.
    pub dynamic: bool,
    /// Vectors that the host has left for it.
    pub granted: Option<u32>,
    /// Its line is shared on the host, which refuses it.
    pub shared_line: bool,
}

/// A device, and the kernel behind its descriptor.
pub struct Endpoint {
    description: Description,
    host: Arc<Host>,
    file: File,
    offsets: [u64; BAR_COUNT],
    config: Mutex<Vec<u8>>,
    dead: AtomicBool,
    enabled: Mutex<Option<Enabled>>,
    untouchable: Mutex<Untouchable>,
}

/// The interrupts that are on.
#[derive(Debug)]
struct Enabled {
    index: u32,
    events: Vec<Option<i32>>,
    unmasked_by: Option<i32>,
}

/// What must not be reached through the descriptor.
#[derive(Debug, Default)]
struct Untouchable {
    /// Bytes of configuration space that are not to be written.
    config: Vec<Range<usize>>,
    /// Bits of the command register that are not to be set.
    command: u16,
    /// BAR and bytes that are neither to be read nor to be written.
    bars: Vec<(usize, Range<u64>)>,
}

/// Offset of the configuration space in a device's descriptor, and how far apart its regions are: as
/// `VFIO_PCI_INDEX_TO_OFFSET` has it.
const REGION_SHIFT: u32 = 40;

impl Endpoint {
    /// On `host`.
    ///
    /// # Errors
    /// Where no memory file can be had.
    pub fn new(host: &Arc<Host>, description: Description) -> io::Result<Arc<Self>> {
        let file = File::from(memfd_create("endpoint", MemfdFlags::CLOEXEC)?);
        file.set_len((ROM_INDEX as u64 + 1) << REGION_SHIFT)?;
        crate::lock(&host.0).endpoints += 1;
        Ok(Arc::new(Endpoint {
            host: host.clone(),
            file,
            offsets: std::array::from_fn(|index| (index as u64) << REGION_SHIFT),
            config: Mutex::new(description.config.clone()),
            dead: AtomicBool::new(false),
            enabled: Mutex::default(),
            untouchable: Mutex::default(),
            description,
        }))
    }

    /// What it is like.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Has it read as ones from now on, as after a surprise removal, or answer again.
    pub fn set_dead(&self, dead: bool) {
        self.dead.store(dead, Ordering::Relaxed);
    }

    /// Bytes of its configuration space, as a read at `offset` would have them now.
    pub fn config<const N: usize>(&self, offset: usize) -> [u8; N] {
        if self.dead.load(Ordering::Relaxed) {
            return [0xff; N];
        }
        let config = crate::lock(&self.config);
        std::array::from_fn(|at| config.get(offset + at).copied().unwrap_or(0))
    }

    /// Changes its configuration space by itself.
    pub fn change_config(&self, offset: usize, data: &[u8]) {
        for (byte, value) in crate::lock(&self.config).iter_mut().skip(offset).zip(data) {
            *byte = *value;
        }
    }

    /// From now on these bytes of its configuration space must not be written.
    pub fn guard_config(&self, bytes: Range<usize>) {
        crate::lock(&self.untouchable).config.push(bytes);
    }

    /// From now on these bits of its command register must not be set.
    pub fn guard_command(&self, bits: u16) {
        crate::lock(&self.untouchable).command |= bits;
    }

    /// From now on these bytes of a BAR must not be reached.
    pub fn guard_bar(&self, bar: usize, bytes: Range<u64>) {
        crate::lock(&self.untouchable).bars.push((bar, bytes));
    }

    /// The index of the interrupts that are on.
    pub fn interrupts(&self) -> Option<u32> {
        let enabled = crate::lock(&self.enabled);
        let Enabled { index, unmasked_by, .. } = enabled.as_ref()?;
        let silent = *index == VFIO_PCI_INTX_IRQ_INDEX && unmasked_by.is_none();
        assert!(!silent || self.host.has_refused(), "nobody unmasks the line");
        Some(*index)
    }

    /// Whether the mapping at `host` is of BAR `bar` from `offset` on: what is written there comes
    /// out here.
    ///
    /// # Safety
    /// `host` must be a mapping of some device.
    pub unsafe fn is_at(&self, host: u64, bar: usize, offset: u64) -> bool {
        // A ROM is not mapped: what decodes over it, and is, is another BAR.
        let Some(start) = self.offsets.get(bar) else { return false };
        let at = start + offset;
        let mut before = [0];
        if self.file.read_exact_at(&mut before, at).is_err() {
            return false;
        }
        let host = host as *mut u8;
        let mut now = [0];
        // SAFETY: the caller vouches for the mapping, which is of plain memory.
        unsafe { host.write_volatile(!before[0]) };
        let read = self.file.read_exact_at(&mut now, at);
        // SAFETY: as above.
        unsafe { host.write_volatile(before[0]) };
        let mut after = [0];
        let again = self.file.read_exact_at(&mut after, at);
        read.is_ok() && again.is_ok() && now[0] == !before[0] && after == before
    }

    fn region(&self, structure: &mut [u8]) -> io::Result<i32> {
        let index = word(structure, 8) as usize;
        let mut flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        let (size, offset, areas) = match index {
            0..=5 => {
                let mappable = self.description.mappable[index].as_deref();
                (self.description.bars[index], self.offsets[index], mappable)
            }
            ROM_INDEX => (self.description.rom, (ROM_INDEX as u64) << REGION_SHIFT, None),
            7 => (self.description.config.len() as u64, 7 << REGION_SHIFT, None),
            _ => return Err(invalid()),
        };
        let mut tail = Vec::new();
        if let Some(areas) = areas {
            flags |= VFIO_REGION_INFO_FLAG_MMAP;
            if !areas.is_empty() {
                flags |= VFIO_REGION_INFO_FLAG_CAPS;
                let header = VFIO_REGION_INFO_CAP_SPARSE_MMAP | 1 << 16;
                for value in [header, 0, areas.len() as u32, 0] {
                    tail.extend_from_slice(&value.to_ne_bytes());
                }
                for (start, length) in areas {
                    tail.extend_from_slice(&start.to_ne_bytes());
                    tail.extend_from_slice(&length.to_ne_bytes());
                }
            }
        }
        let first = 32;
        let whole = first + tail.len();
        structure[0..4].copy_from_slice(&(whole as u32).to_ne_bytes());
        structure[4..8].copy_from_slice(&flags.to_ne_bytes());
        structure[16..24].copy_from_slice(&size.to_ne_bytes());
        structure[24..32].copy_from_slice(&offset.to_ne_bytes());
        if let Some(room) = structure.get_mut(first..whole) {
            room.copy_from_slice(&tail);
            structure[12..16].copy_from_slice(&(first as u32).to_ne_bytes());
        }
        Ok(0)
    }

    /// Puts something into its ROM.
    ///
    /// # Errors
    /// The memory file's.
    pub fn write_rom(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, ((ROM_INDEX as u64) << REGION_SHIFT) + offset)
    }

    fn count(&self, index: u32) -> Option<u32> {
        match index {
            0..3 => Some(self.description.interrupts[index as usize]),
            // Errors, and requests to give it back.
            3 | 4 => Some(1),
            _ => None,
        }
    }

    /// As `vfio_pci_set_irqs_ioctl` of Linux drivers/vfio/pci/vfio_pci_intrs.c has it.
    fn set_interrupts(&self, structure: &[u8]) -> io::Result<i32> {
        let [flags, index, start, count] = [4, 8, 12, 16].map(|at| word(structure, at));
        let misuse = |what: &str| {
            let text = format!("{what}: index {index}, {count} from {start}, flags {flags:#x}");
            Err(self.host.misuse(text))
        };
        let has = self.count(index).ok_or_else(invalid)?;
        let end = start.checked_add(count).expect("an end");
        if start >= has || end > has {
            return misuse("more vectors than it has");
        }
        if index >= 3 {
            return Ok(0);
        }
        let events: Vec<_> = structure[20..]
            .chunks_exact(4)
            .map(|event| Some(word(event, 0) as i32).filter(|event| *event >= 0))
            .collect();
        let mut enabled = crate::lock(&self.enabled);
        let is_on = enabled.as_ref().is_some_and(|enabled| enabled.index == index);
        if flags & VFIO_IRQ_SET_ACTION_UNMASK != 0 {
            return match &mut *enabled {
                Some(enabled) if is_on && index == VFIO_PCI_INTX_IRQ_INDEX => {
                    enabled.unmasked_by = events[0];
                    Ok(0)
                }
                _ => misuse("a line that is off is unmasked"),
            };
        }
        if flags & VFIO_IRQ_SET_DATA_NONE != 0 {
            if !is_on || count != 0 {
                return misuse("what is off is turned off");
            }
            self.expect_cut_off(enabled.take());
            return Ok(0);
        }
        assert_eq!(events.len(), count as usize);
        if enabled.is_some() && !is_on {
            return misuse("another kind is on");
        }
        if index == VFIO_PCI_INTX_IRQ_INDEX && self.description.shared_line {
            self.host.refuse();
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        if index != VFIO_PCI_INTX_IRQ_INDEX
            && let Some(granted) = self.description.granted.filter(|granted| *granted < end)
        {
            self.host.refuse();
            return match is_on || granted == 0 {
                true => Err(io::Error::from(io::ErrorKind::StorageFull)),
                false => Ok(granted as i32),
            };
        }
        let before = enabled.get_or_insert_with(|| Enabled {
            index,
            events: vec![None; end as usize],
            unmasked_by: None,
        });
        if before.events.len() < end as usize {
            if !self.description.dynamic {
                return misuse("vectors are added while others are on");
            }
            before.events.resize(end as usize, None);
        }
        for (place, event) in before.events[start as usize..].iter_mut().zip(events) {
            *place = event;
        }
        Ok(0)
    }

    /// Where memory stops to answer, no vCPU may reach it any more: it would fault on the mapping. Of
    /// several devices it is not known whose mappings are left.
    fn expect_hidden(&self, offset: usize, data: &[u8]) {
        let [before] = self.config::<1>(register::COMMAND);
        let after = register::COMMAND.checked_sub(offset).and_then(|at| data.get(at));
        let stops =
            after.is_some_and(|after| u16::from(before & !after) & register::COMMAND_MEMORY != 0);
        let state = crate::lock(&self.host.0);
        let is_hidden = state.slots.is_empty() || state.refused || state.endpoints > 1;
        assert!(!stops || is_hidden, "its memory stops to answer, and is shown");
    }

    /// Whoever turns interrupts off has cut off the guest before: the other order has crashed hosts.
    /// Where MSI-X vectors cannot be added, all are turned off and on again for a further one, and the
    /// others stay connected meanwhile.
    fn expect_cut_off(&self, enabled: Option<Enabled>) {
        let regrows = |enabled: &Enabled| {
            enabled.index == VFIO_PCI_MSIX_IRQ_INDEX && !self.description.dynamic
        };
        let enabled = enabled.filter(|enabled| !regrows(enabled));
        let state = crate::lock(&self.host.0);
        for event in enabled.into_iter().flat_map(|enabled| enabled.events).flatten() {
            assert!(state.refused || !state.connected(event), "its event still raises interrupts");
        }
    }

    /// The BAR at an offset of the descriptor, and the offset within.
    fn find(&self, offset: u64, length: usize) -> (usize, u64) {
        let (index, at) = ((offset >> REGION_SHIFT) as usize, offset % (1 << REGION_SHIFT));
        let size = match index {
            7 => self.description.config.len() as u64,
            ROM_INDEX => self.description.rom,
            _ => self.description.bars[index],
        };
        assert!(at + length as u64 <= size, "{length} bytes at {at:#x} of region {index}");
        (index, at)
    }

    fn check_bar(&self, bar: usize, offset: u64, length: usize) {
        for (other, bytes) in &crate::lock(&self.untouchable).bars {
            let apart = offset >= bytes.end || offset + length as u64 <= bytes.start;
            assert!(*other != bar || apart, "{bytes:x?} of BAR {bar} is reached at {offset:#x}");
        }
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The descriptor, of which the test keeps a hold.
struct Open(Arc<Endpoint>);

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Kernel for Open {
    fn ask(&self, request: Request, structure: &mut [u8]) -> io::Result<i32> {
        let endpoint = &self.0;
        endpoint.host.call()?;
        match request {
            Request::Describe => {
                let flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
                structure[4..8].copy_from_slice(&flags.to_ne_bytes());
                Ok(0)
            }
            Request::DescribeRegion => endpoint.region(structure),
            Request::DescribeInterrupt => {
                let count = endpoint.count(word(structure, 8)).ok_or_else(invalid)?;
                let flags = if endpoint.description.dynamic { 0 } else { VFIO_IRQ_INFO_NORESIZE };
                structure[4..8].copy_from_slice(&flags.to_ne_bytes());
                structure[12..16].copy_from_slice(&count.to_ne_bytes());
                Ok(0)
            }
            Request::SetInterrupts => endpoint.set_interrupts(structure),
        }
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let endpoint = &self.0;
        let (index, at) = endpoint.find(offset, data.len());
        endpoint.host.call()?;
        if endpoint.dead.load(Ordering::Relaxed) {
            data.fill(0xff);
            return Ok(());
        }
        if index == 7 {
            let config = crate::lock(&endpoint.config);
            data.copy_from_slice(&config[at as usize..][..data.len()]);
            return Ok(());
        }
        endpoint.check_bar(index, at, data.len());
        endpoint.file.read_exact_at(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let endpoint = &self.0;
        let (index, at) = endpoint.find(offset, data.len());
        if index == 7 {
            let from = at as usize;
            let untouchable = crate::lock(&endpoint.untouchable);
            for bytes in &untouchable.config {
                let apart = from >= bytes.end || from + data.len() <= bytes.start;
                assert!(apart, "{data:x?} is written to {bytes:x?} at {from:#x}");
            }
            for (to, byte) in (from..).zip(data) {
                let bits = untouchable.command.to_le_bytes();
                let guarded = to.checked_sub(register::COMMAND).and_then(|at| bits.get(at));
                assert!(guarded.is_none_or(|bits| byte & bits == 0), "it masters the bus");
            }
            endpoint.expect_hidden(from, data);
        } else {
            endpoint.check_bar(index, at, data.len());
        }
        endpoint.host.call()?;
        if endpoint.dead.load(Ordering::Relaxed) {
            return Ok(());
        }
        if index == 7 {
            endpoint.change_config(at as usize, data);
            return Ok(());
        }
        endpoint.file.write_all_at(data, offset)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]))
}

/// A machine with nothing but a PCI bus.
pub struct World {
    /// What stands for KVM and the IOMMU.
    pub host: Arc<Host>,
    /// Its memory, as far as it is trapped.
    pub memory: Arc<Bus>,
    /// Its I/O ports.
    pub ports: Arc<Bus>,
    /// Its functions.
    pub root: Arc<RootComplex>,
    /// Opens when devices reach its RAM.
    pub pinned: Arc<Latch>,
    slots: Arc<Slots>,
    space: Arc<IoSpace>,
}

impl World {
    /// Whether its devices reach each other.
    pub fn has_peers(&self) -> bool {
        self.space.peers().is_some()
    }

    /// Whose devices reach each other, or do not.
    pub fn new(peer_to_peer: bool) -> Self {
        let host = Arc::new(Host::default());
        World {
            memory: Arc::default(),
            ports: Arc::default(),
            root: Arc::default(),
            pinned: Arc::default(),
            slots: Arc::new(Slots::new(host.clone(), SLOTS)),
            space: Arc::new(IoSpace::of(Box::new(Mapper(host.clone())), peer_to_peer)),
            host,
        }
    }

    /// Passes the device through, and puts it onto the bus in the slot that is returned.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn pass_through(&self, endpoint: &Arc<Endpoint>) -> Result<(Arc<VfioFunction>, usize)> {
        let device = Device::new(Open(endpoint.clone()), self.host.clone());
        let slot = self.root.free_slot().map_err(|_| Error::Spec("the bus is full".into()))?;
        let interrupts: Arc<dyn Delivery> = self.host.clone();
        let lines: Arc<dyn Lines> = self.host.clone();
        let surroundings = Surroundings {
            slots: &self.slots,
            bus: &self.memory,
            ports: &self.ports,
            interrupts: &interrupts,
            lines: &lines,
            windows: &WINDOWS,
            pinned: &self.pinned,
            timeline: &Arc::new(Timeline::default()),
            slot,
        };
        let spec = spec::VfioDevice {
            address: format!("0000:01:{slot:02x}.0"),
            from: spec::DeviceSource::Group(0),
            resettable: true,
        };
        let function = VfioFunction::new(self.space.clone(), device, &spec, &surroundings)?;
        let function = Arc::new(function);
        self.root.put(slot, function.clone());
        Ok((function, slot))
    }
}
