//! Unpacked kernels, kept for the next start.
//!
//! An entry is one file, so it is there whole or not at all:
//! ```text
//! ELF kernel │ the payload it came from │ trailer: magic, bytes of the kernel, bytes of the payload,
//!                                          which file the payload was in
//! ```
//! Its name is only drawn from a sample of the payload; what counts is that the payload in it is,
//! byte for byte, that of the image at hand. Where that is the very file the payload came from, and
//! has not changed since, it need not be read for that. The entry is written under another name,
//! brought to the disk, sealed and renamed. The seal is its modification time, which is set to 1970:
//! whatever is written to the file afterwards, or gets lost with the power, breaks it, and the entry is
//! made anew. An entry whose kernel has no bytes says that this payload holds none that can be entered.
//!
//! The time of access is set at each use, and the [`MOST`] entries used last are kept.

use std::fs::{DirBuilder, File, FileTimes, OpenOptions};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use super::image::Payload;
use super::{elf, unpack};

/// Entries that are kept.
const MOST: usize = 4;
/// What a killed command left half written is removed when it is as old as this.
const STALE: Duration = Duration::from_secs(600);
/// Changes with the format.
const MAGIC: [u8; 8] = *b"assignK2";
const TRAILER: usize = 64;
/// A file that has changed more recently than this may change once more without its times telling:
/// coarser than those of any file system Linux boots from.
const SETTLED: Duration = Duration::from_secs(3);
/// Bytes at either end of the payload that the name is drawn from.
const SAMPLE: u64 = 4096;
const CHUNK: usize = 128 << 10;
const SEAL: SystemTime = SystemTime::UNIX_EPOCH;
/// What an entry without a kernel says.
const NOT_ENTERED: &str = "the kernel in it cannot be entered directly (it has no PVH entry, \
                           CONFIG_PVH, or is none)";

/// A folder of entries.
pub struct Cache<'a> {
    folder: &'a Path,
}

impl<'a> Cache<'a> {
    /// The one in this folder, which need not exist yet.
    pub fn at(folder: &'a Path) -> Self {
        Cache { folder }
    }

    /// The kernel that was unpacked from `payload` of `image` before; the error says that there is
    /// none in it to be had. `None` where it has to be unpacked.
    pub fn find(&self, image: &File, payload: Payload) -> Option<Result<File, String>> {
        let file = File::open(self.entry(image, payload)?).ok()?;
        let Entry { kernel, source } = Entry::read(&file, payload)?;
        let before = Payload { offset: kernel, length: payload.length };
        let unchanged = source.is_some() && source == Source::of(image);
        if !unchanged && !same(image, payload, &file, before) {
            return None;
        }
        // Only decides what is kept; and not everybody who may read may do it.
        file.set_times(FileTimes::new().set_accessed(SystemTime::now())).ok();
        Some(if kernel == 0 { Err(NOT_ENTERED.to_owned()) } else { Ok(file) })
    }

    /// Unpacks `payload` of `image` and keeps what is in it.
    ///
    /// # Errors
    /// Why it cannot be unpacked, kept or entered.
    pub fn make(&self, image: &File, payload: Payload) -> Result<File, String> {
        let entry = self.entry(image, payload).ok_or("it cannot be read")?;
        let unkept = |error: io::Error| format!("{}: {error}", self.folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(self.folder).map_err(unkept)?;
        self.remove_stale();
        let new = Unfinished::create(&entry).map_err(unkept)?;
        // Before it is read: what changes meanwhile is another file to the next start.
        let source = Source::of(image).filter(Source::is_settled);
        unpack::unpack(image, payload, &mut BufWriter::with_capacity(CHUNK, &new.file))?;
        let entered = elf::check(&new.file);
        finish(&new.file, image, payload, source, entered.is_ok()).map_err(unkept)?;
        let file = File::open(&new.path).map_err(unkept)?;
        new.rename(&entry).map_err(unkept)?;
        self.prune();
        entered.map(|()| file)
    }

    /// Where the payload's entry is or would be.
    fn entry(&self, image: &File, payload: Payload) -> Option<PathBuf> {
        let length = payload.length.min(SAMPLE);
        let mut sample = vec![0; length as usize * 2];
        let (first, last) = sample.split_at_mut(length as usize);
        image.read_exact_at(first, payload.offset).ok()?;
        image.read_exact_at(last, payload.offset + payload.length - length).ok()?;
        // FNV-1a.
        let bytes = payload.length.to_le_bytes().into_iter().chain(sample);
        let name = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Some(self.folder.join(format!("{name:016x}")))
    }

    /// Removes all entries but the last used. One that a guest is being started with stays readable.
    fn prune(&self) {
        let mut entries: Vec<(SystemTime, PathBuf)> = self
            .files()
            .filter(|(path, _)| path.extension().is_none())
            .filter_map(|(path, found)| Some((found.accessed().ok()?, path)))
            .collect();
        entries.sort_unstable();
        let surplus = entries.len().saturating_sub(MOST);
        for (_, path) in entries.iter().take(surplus) {
            std::fs::remove_file(path).ok();
        }
    }

    fn remove_stale(&self) {
        let is_stale = |found: &std::fs::Metadata| {
            let modified = found.modified().ok();
            modified.and_then(|then| then.elapsed().ok()).is_some_and(|age| age > STALE)
        };
        let unfinished = self.files().filter(|(path, _)| path.extension().is_some());
        for (path, _) in unfinished.filter(|(_, found)| is_stale(found)) {
            std::fs::remove_file(path).ok();
        }
    }

    fn files(&self) -> impl Iterator<Item = (PathBuf, std::fs::Metadata)> {
        let listed = std::fs::read_dir(self.folder).into_iter().flatten().flatten();
        listed
            .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
            .filter(|(_, found)| found.is_file())
    }
}

/// An entry on the way; dropped before it is renamed, it is gone.
struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    fn create(entry: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = entry.with_extension(format!("{}-{number}", std::process::id()));
        let mut options = OpenOptions::new();
        // Of another process with this number there is only what it left.
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Unfinished { file: options.open(&path)?, path })
    }

    fn rename(self, entry: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, entry)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Fails where it was renamed.
        std::fs::remove_file(&self.path).ok();
    }
}

/// Adds what an entry has behind its kernel, brings it to the disk and seals it.
fn finish(
    mut file: &File,
    image: &File,
    payload: Payload,
    source: Option<Source>,
    entered: bool,
) -> io::Result<()> {
    if !entered {
        file.set_len(0)?;
    }
    let kernel = file.seek(io::SeekFrom::End(0))?;
    let mut buffer = vec![0; CHUNK];
    for (offset, length) in chunks(payload.length) {
        image.read_exact_at(&mut buffer[..length], payload.offset + offset)?;
        file.write_all(&buffer[..length])?;
    }
    let mut trailer = MAGIC.to_vec();
    trailer.extend(kernel.to_le_bytes());
    trailer.extend(payload.length.to_le_bytes());
    let source = source.map_or([0; 5], |source| source.0);
    trailer.extend(source.into_iter().flat_map(i64::to_le_bytes));
    file.write_all(&trailer)?;
    file.sync_all()?;
    file.set_times(FileTimes::new().set_modified(SEAL).set_accessed(SystemTime::now()))?;
    file.sync_all()
}

/// Which file, in which state: device, inode, bytes, and when it last changed, by the time that nobody
/// can set, in seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source([i64; 5]);

impl Source {
    fn of(file: &File) -> Option<Self> {
        let found = file.metadata().ok()?;
        let [device, inode, bytes] = [found.dev(), found.ino(), found.size()].map(u64::cast_signed);
        Some(Source([device, inode, bytes, found.ctime(), found.ctime_nsec()]))
    }

    /// Whether another change would show.
    fn is_settled(&self) -> bool {
        let [.., seconds, nanoseconds] = self.0;
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds))
        else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        // A change in the future is a clock that was wrong, or is.
        changed.elapsed().is_ok_and(|age| age >= SETTLED)
    }
}

/// What an entry says of itself.
struct Entry {
    /// Bytes of its kernel.
    kernel: u64,
    /// Which file the payload was in; none where that cannot be told from others.
    source: Option<Source>,
}

impl Entry {
    /// Of an entry of a payload like this; `None` where the seal is broken or the file is something
    /// else.
    fn read(file: &File, payload: Payload) -> Option<Self> {
        let found = file.metadata().ok()?;
        if !found.is_file() || found.modified().ok()? != SEAL {
            return None;
        }
        let mut trailer = [0; TRAILER];
        let at = found.len().checked_sub(TRAILER as u64)?;
        file.read_exact_at(&mut trailer, at).ok()?;
        let (words, _) = trailer.as_chunks::<8>();
        let [magic, kernel, packed, source @ ..] = words else { return None };
        let (kernel, packed) = (u64::from_le_bytes(*kernel), u64::from_le_bytes(*packed));
        let whole =
            *magic == MAGIC && packed == payload.length && kernel.checked_add(packed) == Some(at);
        let source: [[u8; 8]; 5] = source.try_into().ok()?;
        let source = Some(source.map(i64::from_le_bytes)).filter(|source| *source != [0; 5]);
        whole.then_some(Entry { kernel, source: source.map(Source) })
    }
}

/// Whether the two parts, which are of one length, hold the same.
fn same(image: &File, payload: Payload, file: &File, part: Payload) -> bool {
    let (mut one, mut other) = (vec![0; CHUNK], vec![0; CHUNK]);
    chunks(payload.length).all(|(offset, length)| {
        let (one, other) = (&mut one[..length], &mut other[..length]);
        image.read_exact_at(one, payload.offset + offset).is_ok()
            && file.read_exact_at(other, part.offset + offset).is_ok()
            && one == other
    })
}

/// Offset and length of the pieces of `length` bytes.
fn chunks(length: u64) -> impl Iterator<Item = (u64, usize)> {
    let step = CHUNK as u64;
    let starts = (0..length.div_ceil(step)).map(move |index| index * step);
    starts.map(move |start| (start, (length - start).min(step) as usize))
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::kernel;
    use super::super::tests::{bzimage, file};
    use super::super::{image, unpack};
    use super::*;

    fn packed(index: usize) -> File {
        file(&bzimage(&unpack::tests::bytes(unpack::tests::PACKED[index].1)))
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(folder).expect("a folder").flatten();
        listed.map(|entry| entry.path()).collect()
    }

    fn begins_with_kernel(file: &File) -> bool {
        let mut start = vec![0; kernel().len()];
        file.read_exact_at(&mut start, 0).is_ok() && start == kernel()
    }

    #[test]
    fn an_entry_is_found_again_until_anything_happens_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path());
        let image = packed(0);
        let payload = image::payload(&image).expect("a payload");
        assert!(cache.find(&image, payload).is_none());
        assert!(begins_with_kernel(&cache.make(&image, payload).expect("a kernel")));
        let [entry] = &entries(folder.path())[..] else { panic!("one entry") };
        let damages: [fn(&File); 4] = [
            |file| file.write_all_at(b"x", 100).expect("a writable file"),
            |file| file.set_len(50).expect("a writable file"),
            |file| file.set_len(0).expect("a writable file"),
            |file| {
                // With its seal, such as a copy of something else.
                file.write_all_at(b"xxxx", 150).expect("a writable file");
                file.set_times(FileTimes::new().set_modified(SEAL)).expect("our file");
            },
        ];
        for damage in damages {
            let found = cache.find(&image, payload).expect("an entry").expect("a kernel");
            assert!(begins_with_kernel(&found));
            damage(&OpenOptions::new().write(true).open(entry).expect("our file"));
            assert!(cache.find(&image, payload).is_none());
            assert!(begins_with_kernel(&cache.make(&image, payload).expect("made anew")));
        }
        assert_eq!(entries(folder.path()).len(), 1, "nothing else is left");
    }

    #[test]
    fn another_image_never_gets_an_entry_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path());
        let (image, other) = (packed(0), packed(1));
        let payload = image::payload(&image).expect("a payload");
        let of_other = image::payload(&other).expect("a payload");
        cache.make(&other, of_other).expect("a kernel");
        let moved = cache.entry(&image, payload).expect("a name");
        std::fs::rename(&entries(folder.path())[0], &moved).expect("our folder");
        assert!(cache.find(&image, payload).is_none());
    }

    #[test]
    fn a_file_is_known_again_until_it_changes_and_is_not_trusted_while_it_may() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path());
        let image = packed(0);
        let payload = image::payload(&image).expect("a payload");
        let source_of = |image: &File| {
            cache.make(image, payload).expect("a kernel");
            let [entry] = &entries(folder.path())[..] else { panic!("one entry") };
            Entry::read(&File::open(entry).expect("our file"), payload).expect("an entry").source
        };
        assert_eq!(source_of(&image), None, "it changed just now");

        let known = Source::of(&image).expect("a file");
        let long_ago = |Source([device, inode, bytes, seconds, nanoseconds])| {
            Source([device, inode, bytes, seconds - 60, nanoseconds])
        };
        assert!(!known.is_settled() && long_ago(known).is_settled());
        assert!(!Source([1, 1, 1, i64::MAX / 2, 0]).is_settled() && !Source([-1; 5]).is_settled());
        // Written over with what was there, and its time of modification put back.
        let modified = image.metadata().and_then(|found| found.modified()).expect("a time");
        std::thread::sleep(Duration::from_millis(20));
        image.write_all_at(b"\x02", payload.offset).expect("a writable file");
        image.set_times(FileTimes::new().set_modified(modified)).expect("our file");
        assert_ne!(Source::of(&image).expect("a file"), known);
    }

    #[test]
    fn the_very_file_is_not_compared_and_any_other_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path());
        let image = packed(0);
        let payload = image::payload(&image).expect("a payload");
        cache.make(&image, payload).expect("a kernel");
        let entry = entries(folder.path()).remove(0);
        // A payload that is not this image's, and the claim that it came from a file.
        let claim = |source: Source| {
            let file = OpenOptions::new().write(true).open(&entry).expect("our file");
            let end = file.metadata().expect("our file").len();
            let words = source.0.into_iter().flat_map(i64::to_le_bytes).collect::<Vec<_>>();
            file.write_all_at(&words, end - 40).expect("a writable file");
            file.write_all_at(b"xxxx", end - TRAILER as u64 - 8).expect("a writable file");
            file.set_times(FileTimes::new().set_modified(SEAL)).expect("our file");
        };
        let Source([device, inode, bytes, seconds, nanoseconds]) =
            Source::of(&image).expect("a file");
        claim(Source([device, inode, bytes, seconds, nanoseconds]));
        assert!(cache.find(&image, payload).is_some());
        for other in [
            [device + 1, inode, bytes, seconds, nanoseconds],
            [device, inode + 1, bytes, seconds, nanoseconds],
            [device, inode, bytes + 1, seconds, nanoseconds],
            [device, inode, bytes, seconds, nanoseconds + 1],
            [0; 5],
        ] {
            claim(Source(other));
            assert!(cache.find(&image, payload).is_none(), "{other:?}");
        }
    }

    #[test]
    fn what_cannot_be_entered_is_unpacked_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path());
        // Eight zeros, stored by lz4.
        let image = file(&bzimage(b"\x02!L\x18\x09\0\0\0\x80\0\0\0\0\0\0\0\0\x08\0\0\0"));
        let payload = image::payload(&image).expect("a payload");
        cache.make(&image, payload).expect_err("no kernel");
        let known = cache.find(&image, payload).expect("an entry").expect_err("no kernel");
        assert!(known.contains("PVH"), "{known}");
    }

    #[test]
    fn the_last_used_are_kept_and_what_was_left_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path());
        let long_ago = SystemTime::now() - 2 * STALE;
        for (name, left) in [("0123.77-0", long_ago), ("4567.78-0", SystemTime::now())] {
            let file = File::create(folder.path().join(name)).expect("our folder");
            file.set_times(FileTimes::new().set_modified(left)).expect("our file");
        }
        let mut images: Vec<File> = (0..unpack::tests::PACKED.len()).map(packed).collect();
        let payload = |image: &File| image::payload(image).expect("a payload");
        let first = images.remove(0);
        cache.make(&first, payload(&first)).expect("a kernel");
        for image in &images {
            cache.make(image, payload(image)).expect("a kernel");
            cache.find(&first, payload(&first)).expect("in use").expect("a kernel");
        }
        let left = entries(folder.path());
        assert_eq!(left.len(), MOST + 1, "{left:?}");
        assert!(left.iter().any(|path| path.ends_with("4567.78-0")), "{left:?}");
        assert!(cache.find(&images[0], payload(&images[0])).is_none(), "not used for the longest");
    }
}
