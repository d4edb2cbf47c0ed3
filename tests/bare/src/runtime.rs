//! What a standard library would have: memory, its functions, a line to the outside, and an end.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::fmt;
use core::panic::PanicInfo;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

const SERIAL: u16 = 0x3f8;
/// The sleep control register that the machine's FADT names, and its S5 with the enable bit (ACPI 6.5,
/// 4.8.3.7).
const SLEEP_CONTROL: u16 = 0x600;
const POWER_OFF: u8 = 5 << 2 | 1 << 5;

/// Writes a byte to an I/O port.
fn out(port: u16, byte: u8) {
    // SAFETY: the devices at these ports change no memory of ours.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) }
}

/// The serial console.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            out(SERIAL, byte);
        }
        Ok(())
    }
}

/// Prints a line.
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::runtime::Serial, "bare: {}", format_args!($($argument)*));
    }};
}
pub(crate) use say;

/// Ends the machine.
pub fn power_off() -> ! {
    out(SLEEP_CONTROL, POWER_OFF);
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    say!("FAILED: {info}");
    power_off()
}

/// Bytes that can be had in all. Nothing is given back: this program lives for seconds.
const HEAP: usize = 32 << 20;

#[repr(align(4096))]
struct Heap(UnsafeCell<[u8; HEAP]>, AtomicUsize);

// SAFETY: each byte is given out once, by an atomic counter.
unsafe impl Sync for Heap {}

#[global_allocator]
static ALLOCATOR: Heap = Heap(UnsafeCell::new([0; HEAP]), AtomicUsize::new(0));

// SAFETY: what is returned is aligned, inside the heap, and was never returned before.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut start = 0;
        let taken = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            start = taken.next_multiple_of(layout.align());
            start.checked_add(layout.size()).filter(|end| *end <= HEAP)
        });
        match taken {
            Ok(_) if layout.align() <= 4096 => self.0.get().cast::<u8>().wrapping_add(start),
            _ => null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// memcpy(3).
///
/// # Safety
/// As memcpy's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// memmove(3).
///
/// # Safety
/// As memmove's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: nothing is written before it was read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller's promise; from the end to the beginning.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _,
             inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// memset(3).
///
/// # Safety
/// As memset's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// memcmp(3).
///
/// # Safety
/// As memcmp's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller's promise.
        let (one, other) = unsafe { (*one.wrapping_add(at), *other.wrapping_add(at)) };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// bcmp(3).
///
/// # Safety
/// As bcmp's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(one, other, count) }
}

/// The precompiled libraries name it; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
