//! The kernel as the guest gets it: taken out of its bzImage beforehand, where that can be done.
//!
//! A distribution's bzImage holds the kernel compressed, and unpacks itself at every start of every
//! guest: most of what starting a guest costs. So its payload is unpacked here, once, and kept:
//! ```text
//! bzImage ─ image: where is the payload? ─ cache: was it unpacked before? ── yes ─► the ELF kernel
//!                          │                        └─ no ─ unpack ─ elf: can it be entered? ─┘
//!                          └───────────── whatever fails: the bzImage, and why ◄──────────────┘
//! ```
//! Kernel images are hostile: sizes are bounded, a decoder that panics costs the guest nothing but
//! this shortcut, and what was unpacked from one image is never given to a guest with another, since
//! the two are compared whole.
//!
//! A kernel that does not unpack itself does not move itself to a random address either (KASLR of its
//! text); `nokaslr` and the payload's entry come to the same.

mod cache;
mod elf;
mod image;
mod unpack;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use self::cache::Cache;

/// What a guest boots.
#[derive(Debug)]
pub struct Kernel {
    /// The image, at its beginning.
    pub file: OwnedFd,
    /// Why it has to unpack itself, where it has to.
    pub packed_because: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a guest's kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The image as it is.
    Image,
    /// The image, from which it was taken now.
    Unpacked,
    /// The image, from which it was taken before.
    Cache,
}

/// The kernel inside the image `file`, where there is one and it can be had; otherwise the image as
/// it is. What was unpacked is kept in `folder`, which is made where it is missing.
pub fn take_out(file: OwnedFd, folder: &Path) -> Kernel {
    let file = File::from(file);
    // An ELF kernel, or something that the VMM will refuse with its reasons.
    if !image::is_bzimage(&file) {
        return Kernel { file: file.into(), packed_because: None, origin: Origin::Image };
    }
    let mut origin = Origin::Unpacked;
    let unpacked = image::payload(&file).and_then(|payload| {
        let cache = Cache::at(folder);
        if let Some(found) = cache.find(&file, payload) {
            origin = Origin::Cache;
            return found;
        }
        // A decoder that meets a bug of its own leaves nothing behind that is used again.
        catch_unwind(AssertUnwindSafe(|| cache.make(&file, payload)))
            .unwrap_or_else(|_| Err("the decoder gave up on it".to_owned()))
    });
    match unpacked {
        Ok(unpacked) => Kernel { file: unpacked.into(), packed_because: None, origin },
        Err(why) => Kernel { file: file.into(), packed_because: Some(why), origin: Origin::Image },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// Any bzImage around `payload`, with something before and behind it.
    pub(super) fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 512];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&512_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image.resize(image.len() + 64, 0xaa);
        image
    }

    pub(super) fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("room");
        file
    }

    fn taken_out(image: &[u8], folder: &Path) -> (Vec<u8>, Option<String>) {
        let Kernel { file, packed_because, origin } = take_out(file(image).into(), folder);
        assert!(packed_because.is_none() || origin == Origin::Image);
        let mut bytes = Vec::new();
        let mut file = File::from(file);
        std::io::Seek::rewind(&mut file).expect("a regular file");
        file.read_to_end(&mut bytes).expect("a readable file");
        (bytes, packed_because)
    }

    #[test]
    fn every_compression_of_the_distributions_is_taken_out() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, packed) in unpack::tests::PACKED {
            let image = bzimage(&unpack::tests::bytes(packed));
            for turn in ["unpacked", "kept"] {
                let (kernel, why) = taken_out(&image, folder.path());
                assert_eq!(why, None, "{name}, {turn}");
                assert!(kernel.starts_with(&elf::tests::kernel()), "{name}, {turn}");
            }
        }
    }

    #[test]
    fn what_cannot_be_taken_out_boots_as_it_is_and_says_why() {
        let folder = tempfile::tempdir().expect("a folder");
        for (payload, expected) in [
            (&b"\x89LZO\0\r\n\x1a\n"[..], "compressed in a way"),
            (b"(\xb5/\xfd rubbish", "zstd"),
            (b"\xfd7zXZ\0rubbish", "xz"),
            (b"\x1f\x8brubbish", "gzip"),
            (b"\x02!L\x18\xff\xff\xff\xffrubbish", "lz4"),
        ] {
            let image = bzimage(payload);
            let (kernel, why) = taken_out(&image, folder.path());
            assert!(kernel == image, "{expected}: the image itself");
            assert!(why.as_deref().is_some_and(|why| why.contains(expected)), "{why:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing stays");
    }

    #[test]
    fn what_is_no_bzimage_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        for image in [&b""[..], b"\x7fELF", &[0; 4096]] {
            let (kernel, why) = taken_out(image, &folder.path().join("kernels"));
            assert_eq!((kernel.as_slice(), why), (image, None));
        }
        assert!(!folder.path().join("kernels").exists());
    }

    #[test]
    fn without_a_place_to_keep_it_the_guest_boots_all_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let taken = folder.path().join("kernels");
        std::fs::write(&taken, "a file").expect("room");
        let image = bzimage(&unpack::tests::bytes(unpack::tests::PACKED[0].1));
        let (kernel, why) = taken_out(&image, &taken);
        assert!(kernel == image);
        assert!(why.is_some_and(|why| why.contains("kernels")));
    }
}
