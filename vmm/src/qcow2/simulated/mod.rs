//! Test support: images in memory, made here and looked through by other means than those under test,
//! and a file that remembers how it was written.

mod image;
mod program;

use std::io::{self, ErrorKind};
use std::sync::Mutex;

pub use self::image::{Cluster, Found, Shape, check};
pub use self::program::{Action, Model, carry_out};
use super::{Qcow2, Storage};

/// What was done to a file.
#[derive(Debug, Clone)]
pub enum Step {
    /// Bytes were written somewhere.
    Write(u64, Vec<u8>),
    /// So many bytes became zeroes.
    Zero(u64, u64),
    /// All before stays.
    Sync,
}

/// A file in memory.
#[derive(Debug)]
pub struct Ram(Mutex<State>);

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    most: usize,
    steps: Option<Vec<Step>>,
}

impl Ram {
    /// One with these contents, that grows to `most` bytes.
    pub fn new(bytes: Vec<u8>, most: usize) -> Ram {
        Ram(Mutex::new(State { bytes, most, steps: None }))
    }

    /// The same, remembering what is done from now on.
    pub fn recording(bytes: Vec<u8>, most: usize) -> Ram {
        Ram(Mutex::new(State { bytes, most, steps: Some(Vec::new()) }))
    }

    /// What is in it.
    pub fn bytes(&self) -> Vec<u8> {
        self.with(<[u8]>::to_vec)
    }

    /// The same, to be looked at in its place.
    pub fn with<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&crate::lock(&self.0).bytes)
    }

    /// What was done to it so far.
    pub fn steps(&self) -> Vec<Step> {
        crate::lock(&self.0).steps.clone().unwrap_or_default()
    }

    /// How large it may become.
    pub fn limit(&self, most: usize) {
        crate::lock(&self.0).most = most;
    }

    fn step(&self, step: Step) -> io::Result<()> {
        let state = &mut *crate::lock(&self.0);
        apply(&mut state.bytes, &step);
        state.steps.iter_mut().for_each(|steps| steps.push(step.clone()));
        Ok(())
    }
}

fn put(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = at as usize;
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Does to `file` what was done to another.
pub fn apply(file: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(at, bytes) => put(file, *at, bytes),
        Step::Zero(at, length) => {
            let end = at.saturating_add(*length).min(file.len() as u64) as usize;
            file.get_mut(*at as usize..end).unwrap_or_default().fill(0);
        }
        Step::Sync => {}
    }
}

impl Storage for &Ram {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let state = crate::lock(&self.0);
        let from =
            usize::try_from(at).ok().and_then(|at| state.bytes.get(at..)).unwrap_or_default();
        let count = from.len().min(bytes.len());
        bytes[..count].copy_from_slice(&from[..count]);
        bytes[count..].fill(0);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *crate::lock(&self.0);
        let end = usize::try_from(at).ok().and_then(|at| at.checked_add(bytes.len()));
        if end.is_none_or(|end| end > state.most.max(state.bytes.len())) {
            return Err(ErrorKind::StorageFull.into());
        }
        put(&mut state.bytes, at, bytes);
        if let Some(steps) = &mut state.steps {
            steps.push(Step::Write(at, bytes.to_vec()));
        }
        Ok(())
    }

    fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        self.step(Step::Zero(at, length))
    }

    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        self.step(Step::Zero(at, length))
    }

    fn sync(&self) -> io::Result<()> {
        self.step(Step::Sync)
    }
}

/// A disk in `file`, as somebody who has bytes uses it.
pub struct Disk<'f> {
    /// The disk.
    pub qcow2: Qcow2<&'f Ram>,
    file: &'f Ram,
}

impl<'f> Disk<'f> {
    /// Opens it.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(file: &'f Ram, read_only: bool) -> io::Result<Disk<'f>> {
        let length = crate::lock(&file.0).bytes.len() as u64;
        Ok(Disk { qcow2: Qcow2::open(file, length, read_only)?, file })
    }

    /// What is there.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        // Whatever is not put there shows.
        let mut bytes = vec![0xee; length];
        self.qcow2.read_bytes(offset, &mut bytes).map(|()| bytes)
    }

    /// Writes, in place where that is known at once, as a queue does.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some((at, _lease)) = self.qcow2.place(offset, bytes.len() as u64, true) {
            return self.file.write(at, bytes);
        }
        self.qcow2.write(offset, bytes.len() as u64, &mut |place, length, at| {
            self.file.write(at, &bytes[place as usize..(place + length) as usize])
        })
    }
}
