//! `lab-map NAME DISK` maps a whole disk to a device-mapper device of this name, as LVM does for a
//! volume; `lab-map --remove NAME` takes it away. It does what dmsetup does, without its libraries.

use std::ffi::c_void;
use std::fs::{self, OpenOptions};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

/// `struct dm_ioctl` (linux/dm-ioctl.h), with room for one target behind it.
const HEADER: usize = 312;
const BYTES: usize = 1024;
/// The device-mapper's ioctls, and the three of them that are needed, with their numbers.
const GROUP: u8 = 0xfd;
const CREATE: u8 = 3;
const REMOVE: u8 = 4;
const RESUME: u8 = 6;
const LOAD: u8 = 9;

/// A request to the device-mapper.
struct Request {
    number: u8,
    bytes: Box<[u8; BYTES]>,
}

impl Request {
    fn new(number: u8, name: &str) -> Result<Request> {
        let mut request = Request { number, bytes: Box::new([0; BYTES]) };
        // Version 4.0.0; the request's size, and where its data begins.
        request.put(0, &4u32.to_ne_bytes())?;
        request.put(12, &u32::try_from(BYTES)?.to_ne_bytes())?;
        request.put(16, &u32::try_from(HEADER)?.to_ne_bytes())?;
        if name.len() >= 128 {
            bail!("a name has at most 127 bytes");
        }
        request.put(48, name.as_bytes())?;
        Ok(request)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let place = self.bytes.get_mut(at..at + bytes.len()).context("no room")?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn send(self) -> Result<()> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?;
        // SAFETY: the request is what the device-mapper takes for this number, see `Ioctl` below.
        Ok(unsafe { rustix::ioctl::ioctl(control, self) }?)
    }
}

// SAFETY: the kernel reads and writes at most the number of bytes that the header says (data_size),
// which is the size of the buffer; it takes and returns no pointers.
unsafe impl Ioctl for Request {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<[u8; HEADER]>(GROUP, self.number)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.bytes.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--remove", name] => Request::new(REMOVE, name)?.send(),
        [name, disk] => map(name, disk),
        _ => bail!("lab-map NAME DISK, or lab-map --remove NAME"),
    }
}

fn map(name: &str, disk: &str) -> Result<()> {
    let disk = Path::new(disk).file_name().context("no disk")?;
    let facts = Path::new("/sys/class/block").join(disk);
    let read = |attribute: &str| fs::read_to_string(facts.join(attribute));
    let (number, sectors) = (read("dev")?, read("size")?);
    Request::new(CREATE, name)?.send().context("making it")?;
    let mut load = Request::new(LOAD, name)?;
    load.put(20, &1u32.to_ne_bytes())?;
    // `struct dm_target_spec`: first sector 0, length, status, next, type; then its parameters.
    load.put(HEADER + 8, &sectors.trim().parse::<u64>()?.to_ne_bytes())?;
    load.put(HEADER + 24, b"linear")?;
    load.put(HEADER + 40, format!("{} 0", number.trim()).as_bytes())?;
    load.send().context("giving it a table")?;
    Request::new(RESUME, name)?.send().context("starting it")
}
