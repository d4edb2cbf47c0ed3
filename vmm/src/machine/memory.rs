//! Guest RAM and the numbering of KVM memory slots.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::process::{Resource, geteuid, getpriority_process, getrlimit};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use crate::error::{Error, Result, Trying};
use crate::machine::layout::Layout;
use crate::machine::nodes;
use crate::spec::{Memory, Pages};

/// Guest RAM, mapped in this process.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Sizes of large pages, of the CPU and the IOMMU, in bytes.
const LARGE_PAGES: [u64; 2] = [1 << 30, 2 << 20];

/// Maps RAM for `layout`, of the pages that `wanted` names; untouched, unless it is to be found at once.
/// It stays mapped until the process ends, as a machine needs it.
///
/// # Errors
/// [`Error::Memory`] where the address space is short, or the host's huge pages are, or one of the nodes that
/// it is to come from has none.
pub fn allocate(layout: &Layout, wanted: &Memory) -> Result<GuestMemory> {
    let mut regions = Vec::new();
    for range in &layout.ram {
        let size = range.end - range.start;
        let host = map(range.start, size, wanted.pages).map_err(|error| short(wanted, error))?;
        let (protection, flags) = (libc_bits(PROTECTION.bits()), libc_bits(FLAGS.bits()));
        // SAFETY: the range was just mapped for this region alone, and nobody ever unmaps it.
        let region = unsafe { MmapRegion::build_raw(host, size as usize, protection, flags) }
            .map_err(|error| short(wanted, io::Error::other(error)))?;
        for advice in advice(wanted) {
            // SAFETY: the range is the region's own private anonymous mapping; the advice changes how
            // it will be backed, not what it holds. A host that cannot do that refuses, which is fine.
            let _ = unsafe { madvise(host.cast(), size as usize, advice) };
        }
        let region = GuestRegionMmap::new(region, GuestAddress(range.start));
        let past_the_end = || short(wanted, io::Error::from(io::ErrorKind::InvalidInput));
        regions.push(region.ok_or_else(past_the_end)?);
    }
    let memory = GuestMemory::from_regions(regions);
    let memory = memory.map_err(|error| short(wanted, io::Error::other(error)))?;
    nodes::bind(&memory, layout, &wanted.nodes)?;
    if wanted.at_once {
        populate(&memory, || true).map_err(|error| short(wanted, error))?;
    }
    Ok(memory)
}

fn short(wanted: &Memory, source: io::Error) -> Error {
    let action = match wanted.pages {
        Pages::Transparent | Pages::Small => "reserve address space for the guest's RAM",
        Pages::Huge2M => "have enough of the host's pages of 2 MiB",
        Pages::Huge1G => "have enough of the host's pages of 1 GiB",
    };
    Error::Memory { action, source }
}

/// What the kernel is told of it.
fn advice(wanted: &Memory) -> impl Iterator<Item = Advice> {
    let pages = match wanted.pages {
        Pages::Transparent => Some(Advice::LinuxHugepage),
        Pages::Small => Some(Advice::LinuxNoHugepage),
        Pages::Huge2M | Pages::Huge1G => None,
    };
    pages.into_iter().chain(wanted.merge.then_some(Advice::LinuxMergeable))
}

const PROTECTION: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);
const FLAGS: MapFlags = MapFlags::PRIVATE.union(MapFlags::NORESERVE);

/// The flags as the C library has them.
fn libc_bits(bits: u32) -> i32 {
    bits as i32
}

/// Maps `size` bytes for the guest's addresses from `guest` on.
fn map(guest: u64, size: u64, pages: Pages) -> io::Result<*mut u8> {
    match pages.huge() {
        Some(page) => map_huge(guest, size, page),
        None => map_congruent(guest, size),
    }
}

/// Maps huge pages of `page` bytes, which the kernel sets apart for this mapping here and now. A range
/// that does not begin or end with a page has a part of its first or last one, as beside what an IOMMU
/// reserves.
fn map_huge(guest: u64, size: u64, page: u64) -> io::Result<*mut u8> {
    let before = guest % page;
    let whole = before.checked_add(size).and_then(|end| end.checked_next_multiple_of(page));
    let whole = whole.and_then(|whole| usize::try_from(whole).ok());
    let whole = whole.ok_or(io::ErrorKind::OutOfMemory)?;
    // mmap(2), MAP_HUGE_SHIFT: the size's logarithm beside the flags.
    let of_size = MapFlags::from_bits_retain(page.ilog2() << libc::MAP_HUGE_SHIFT);
    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | of_size;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), whole, PROTECTION, flags)? };
    Ok(start.cast::<u8>().wrapping_add(before as usize))
}

/// Maps `size` bytes of anonymous memory at an address that is as far from a large page's beginning as
/// `guest` is, so that the same large pages can back both, and the IOMMU can have them too.
fn map_congruent(guest: u64, size: u64) -> io::Result<*mut u8> {
    let align = LARGE_PAGES.into_iter().find(|page| size >= *page).unwrap_or(1);
    let slack = if align > 1 { align } else { 0 };
    let whole = size.checked_add(slack).and_then(|whole| usize::try_from(whole).ok());
    let whole = whole.ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), whole, PROTECTION, FLAGS)? };
    let start = start.cast::<u8>();
    let before = (guest % align + align - start.addr() as u64 % align) % align;
    let (before, size) = (before as usize, size as usize);
    let host = start.wrapping_add(before);
    let after = whole - before - size;
    // What remains on both sides only takes address space: were it to stay, nothing would be wrong.
    for (start, length) in [(start, before), (host.wrapping_add(size), after)] {
        if length > 0 {
            // SAFETY: this part of the new mapping is outside of what is returned, and nothing refers
            // to it.
            let _ = unsafe { munmap(start.cast(), length) };
        }
    }
    Ok(host)
}

/// Bytes that a thread populates at a time: of several huge pages, and short enough that the threads
/// end together.
const CHUNK: usize = 32 << 20;
/// Threads that populate, at most: beyond, the memory's bandwidth is the limit.
const MOST_THREADS: usize = 16;
/// Has the kernel find pages for all of `memory` now, on all CPUs that this process may use. Pinning
/// finds them too, but one after the other. It stands back behind other threads, above all vCPUs, until
/// it is `urgent`.
///
/// # Errors
/// The kernel's for a part of it: EINVAL before Linux 5.14, EFAULT where a limit keeps it from huge pages,
/// ENOMEM on a host without so much memory.
pub fn populate(memory: &GuestMemory, urgent: impl Fn() -> bool + Sync) -> io::Result<()> {
    let chunks: Vec<_> = memory
        .iter()
        .flat_map(|region| {
            let (start, size) = (region.as_ptr() as usize, region.size());
            (0..size).step_by(CHUNK).map(move |at| (start + at, CHUNK.min(size - at)))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut patience = Patience::begin();
        while let Some(&(start, length)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if urgent() {
                patience.end();
            }
            // SAFETY: the range is part of a region of `memory`, private anonymous memory that is
            // mapped as long as it is borrowed here; it is written to as if each byte were written
            // with its own value, which harms nobody who uses it at the same time.
            unsafe { madvise(start as *mut _, length, Advice::LinuxPopulateWrite) }?;
        }
        Ok(())
    };
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let threads: Vec<_> = (1..cpus.min(MOST_THREADS).min(chunks.len()))
            .filter_map(|_| {
                // One thread fewer takes longer, and that is all.
                thread::Builder::new().name("populate".into()).spawn_scoped(scope, work).ok()
            })
            .collect();
        let own = work();
        let others = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        });
        others.fold(own, io::Result::and)
    })
}

/// A thread that runs where nobody else wants its CPU (SCHED_IDLE of sched(7)), until this ends.
struct Patience {
    began: bool,
}

impl Patience {
    fn begin() -> Self {
        Patience { began: may_end() && set_policy(libc::SCHED_IDLE) }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.began) {
            // It was found to be allowed.
            set_policy(libc::SCHED_OTHER);
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sets the policy of the calling thread; says whether it was set.
fn set_policy(policy: i32) -> bool {
    // SAFETY: it is a plain structure of numbers, and 0 is a value of each.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a structure that lives until the call returns; 0 is this thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

/// Whether a thread that is patient may become impatient again: as if it made itself less nice, which
/// root may, and who has the limit for it (RLIMIT_NICE of getrlimit(2)).
fn may_end() -> bool {
    let nice = getpriority_process(None).unwrap_or_default();
    let wanted = u64::try_from(20 - nice).unwrap_or(u64::MAX);
    geteuid().is_root() || getrlimit(Resource::Nice).current.is_none_or(|limit| limit >= wanted)
}

/// Who holds memory slots: a VM.
pub trait SlotHolder: Send + Sync {
    /// Fills the slot that `region` names, or empties it where its size is 0.
    ///
    /// # Safety
    /// The host's range must stay mapped, and be memory that the guest may read and write at any
    /// time, until the slot is emptied or its holder is gone.
    ///
    /// # Errors
    /// KVM's.
    unsafe fn set_slot(&self, region: kvm_userspace_memory_region) -> io::Result<()>;
}

impl SlotHolder for VmFd {
    unsafe fn set_slot(&self, region: kvm_userspace_memory_region) -> io::Result<()> {
        // SAFETY: the caller vouches for the range.
        Ok(unsafe { self.set_user_memory_region(region) }?)
    }
}

/// The VM's memory slots: which number is free, and the call that fills it.
pub struct Slots {
    vm: Arc<dyn SlotHolder>,
    numbers: Mutex<Numbers>,
}

struct Numbers {
    next: u32,
    free: Vec<u32>,
    limit: u32,
}

/// A number of a slot in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

impl Slots {
    /// All of `vm`'s slots, of which it has `limit`.
    pub fn new(vm: Arc<dyn SlotHolder>, limit: u32) -> Self {
        Slots { vm, numbers: Mutex::new(Numbers { next: 0, free: Vec::new(), limit }) }
    }

    /// Shows `length` bytes at `host` to the guest at `guest`.
    ///
    /// # Safety
    /// `host..host+length` must stay mapped, and be memory that the guest may read and write at
    /// any time, until the slot is removed or the VM is gone.
    ///
    /// # Errors
    /// [`Error::Kvm`] where the slots are used up or KVM refuses the range.
    pub unsafe fn add(&self, guest: u64, host: *mut u8, length: u64) -> Result<Slot> {
        let number = self.take()?;
        let region = kvm_userspace_memory_region {
            slot: number,
            flags: 0,
            guest_phys_addr: guest,
            memory_size: length,
            userspace_addr: host as u64,
        };
        // SAFETY: the caller vouches for the range; the slot number is unused.
        let added = unsafe { self.vm.set_slot(region) };
        if added.is_err() {
            self.give_back(number);
        }
        added.kvm("add a memory slot")?;
        Ok(Slot(number))
    }

    /// Takes a slot away from the guest. Afterwards no vCPU reaches its memory.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM refuses; the number is not used again then.
    pub fn remove(&self, slot: Slot) -> Result<()> {
        let region = kvm_userspace_memory_region { slot: slot.0, ..Default::default() };
        // SAFETY: a size of 0 deletes the slot and refers to no memory.
        unsafe { self.vm.set_slot(region) }.kvm("remove a memory slot")?;
        self.give_back(slot.0);
        Ok(())
    }

    fn take(&self) -> Result<u32> {
        let mut numbers = crate::lock(&self.numbers);
        if let Some(number) = numbers.free.pop() {
            return Ok(number);
        }
        if numbers.next >= numbers.limit {
            return Err(io::Error::from(io::ErrorKind::StorageFull)).kvm("find a memory slot");
        }
        numbers.next += 1;
        Ok(numbers.next - 1)
    }

    fn give_back(&self, number: u32) {
        crate::lock(&self.numbers).free.push(number);
    }
}

/// Gives all of `memory` to the guest.
///
/// # Errors
/// [`Error::Kvm`] where KVM refuses.
pub fn give_to_guest(slots: &Slots, memory: &GuestMemory) -> Result<()> {
    for region in memory.iter() {
        // SAFETY: the region is anonymous RAM that lives as long as `memory`, which the machine
        // keeps until the process ends once a vCPU runs; nothing in this process holds references
        // into it.
        unsafe { slots.add(region.start_addr().0, region.as_ptr(), region.len())? };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::spec::AddressRange;

    /// KiB that have pages in the mappings that cover `start` to `end`.
    fn resident(start: usize, end: usize) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut within = false;
        let mut kib = 0;
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((from, to)) = first.split_once('-') {
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                within = number(from) < end && number(to) > start;
            } else if within && first == "Rss:" {
                kib += words.next().unwrap().parse::<usize>().unwrap();
            }
        }
        kib
    }

    /// Whatever the layout says.
    fn plain() -> Memory {
        Memory::bytes(0)
    }

    /// What the kernel says of the mapping that begins at `start`: `VmFlags` of proc(5).
    fn flags(start: u64) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let begins = format!("{start:x}-");
        let mapping = maps.lines().skip_while(|line| !line.starts_with(&begins));
        let flags = mapping.skip(1).find_map(|line| line.strip_prefix("VmFlags:"));
        format!("{} ", flags.expect("its flags"))
    }

    #[test]
    fn the_kernel_is_told_which_pages_are_wanted() {
        let layout = Layout::new(64 << 20, 40, &[]).unwrap();
        let told = |wanted: &Memory| {
            let memory = allocate(&layout, wanted).unwrap();
            flags(memory.iter().next().unwrap().as_ptr() as u64)
        };
        let small = told(&Memory { pages: Pages::Small, ..plain() });
        let merged = told(&Memory { merge: true, ..plain() });
        // Kernels without these features say nothing of them.
        let has = |path: &str| std::path::Path::new(path).exists();
        if has("/sys/kernel/mm/transparent_hugepage") {
            assert!(small.contains(" nh ") && !small.contains(" hg "), "{small}");
            assert!(merged.contains(" hg "), "{merged}");
        }
        if has("/sys/kernel/mm/ksm") {
            assert!(merged.contains(" mg ") && !small.contains(" mg "), "{merged}");
        }
    }

    #[test]
    fn huge_pages_that_the_host_lacks_are_told() {
        let layout = Layout::new(64 << 30, 40, &[]).unwrap();
        let free =
            std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages");
        if free.is_ok_and(|free| free.trim().parse::<u64>().is_ok_and(|free| free >= 64)) {
            return;
        }
        let wanted = Memory { pages: Pages::Huge1G, ..plain() };
        let error = allocate(&layout, &wanted).expect_err("no host of tests has so many");
        let text = error.to_string();
        assert!(text.contains("cannot have enough of the host's pages of 1 GiB"), "{text}");
    }

    #[test]
    fn large_pages_can_back_guest_and_host_alike() {
        let reserved = AddressRange { first: 100 << 20, last: 101 << 20 };
        let layout = Layout::new(6 << 30, 40, &[reserved]).unwrap();
        let memory = allocate(&layout, &plain()).unwrap();
        let aligned = |page: u64| {
            let large = memory.iter().filter(move |region| region.len() >= page);
            large.map(move |region| {
                let host = region.as_ptr() as u64;
                assert_eq!(host % page, region.start_addr().0 % page);
            })
        };
        assert_eq!(aligned(2 << 20).count(), 3);
        assert_eq!(aligned(1 << 30).count(), 2);
        memory.write_slice(b"end", GuestAddress(layout.ram[2].end - 3)).unwrap();
    }

    #[test]
    fn populated_memory_has_pages_and_keeps_what_it_holds() {
        let layout = Layout::new(80 << 20, 40, &[]).unwrap();
        let memory = allocate(&layout, &plain()).unwrap();
        memory.write_slice(b"kernel", GuestAddress(0x10_0000)).unwrap();
        let populated = populate(&memory, || false);
        let region = memory.iter().next().unwrap();
        let start = region.as_ptr() as usize;
        // Linux before 5.14 cannot.
        // SAFETY: one page of the region, which stays mapped.
        let can = unsafe { madvise(start as *mut _, 4096, Advice::LinuxPopulateWrite) }.is_ok();
        assert_eq!(populated.is_ok(), can);
        assert!(!can || resident(start, start + region.size()) >= 80 << 10);
        let mut held = [0; 6];
        memory.read_slice(&mut held, GuestAddress(0x10_0000)).unwrap();
        assert_eq!(&held, b"kernel");
    }
}
