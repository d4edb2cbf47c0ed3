//! Images of QEMU's own tools are read here, and what is written here is sound to them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use vmm::qcow2::Qcow2;

const SIZE: usize = 3 << 20;

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `qemu-img` here.
    fn img(&self, arguments: &str) {
        let output = Command::new("qemu-img")
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .expect("qemu-img is installed by `cargo lab setup`");
        let told = String::from_utf8_lossy(&output.stderr);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "qemu-img {arguments}: {said}{told}");
    }

    fn raw(&self, image: &str) -> Vec<u8> {
        self.img(&format!("convert -O raw {image} {image}.raw"));
        std::fs::read(self.path(&format!("{image}.raw"))).expect("a file")
    }
}

/// Bytes that can be compressed, with zeroes between them.
fn contents() -> Vec<u8> {
    (0..SIZE).map(|at| if at >> 17 & 1 == 1 { 0 } else { (at / 700 * 13) as u8 }).collect()
}

/// A disk, and the file that it is in.
fn open(path: &Path, read_only: bool) -> (Qcow2<File>, File) {
    let file = File::options().read(true).write(!read_only).open(path).expect("a file");
    let length = file.metadata().expect("a file").len();
    let copy = file.try_clone().expect("a descriptor");
    (Qcow2::open(file, length, read_only).expect("a disk"), copy)
}

fn read(disk: &Qcow2<File>) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    disk.read_bytes(0, &mut bytes).expect("it is read");
    bytes
}

fn write(disk: &(Qcow2<File>, File), offset: usize, bytes: &[u8], model: &mut [u8]) {
    let (disk, file) = disk;
    let mut put = |place: u64, length: u64, at: u64| {
        file.write_all_at(&bytes[place as usize..(place + length) as usize], at)
    };
    disk.write(offset as u64, bytes.len() as u64, &mut put).expect("it is written");
    model[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[test]
#[ignore = "needs qemu-img: cargo lab test"]
fn images_that_qemu_makes_are_read() {
    let folder = Folder::new();
    std::fs::write(folder.path("disk.raw"), contents()).expect("a file");
    for options in [
        "",
        "-o compat=0.10",
        "-c",
        "-c -o compat=0.10,cluster_size=4k",
        "-c -o compression_type=zstd",
        "-c -o compression_type=zstd,cluster_size=2M",
        "-c -o cluster_size=512",
        "-o preallocation=metadata,refcount_bits=1",
        "-o lazy_refcounts=on,refcount_bits=64",
    ] {
        folder.img(&format!("convert -f raw -O qcow2 {options} disk.raw disk.qcow2"));
        let (disk, _) = open(&folder.path("disk.qcow2"), true);
        assert!(read(&disk) == contents(), "{options}");
    }
}

/// Writes, discards and zeroes all over the disk, and has the model say what comes of it.
fn work(disk: &(Qcow2<File>, File), model: &mut [u8]) {
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..150 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let offset = (number >> 33) as usize % (SIZE / 512) * 512;
        let length = ((number >> 20) as usize % 100_000 / 512 * 512 + 512).min(SIZE - offset);
        match round % 5 {
            0..=2 => write(disk, offset, &vec![round as u8 | 1; length], model),
            kind => {
                disk.0.zero(offset as u64, length as u64, kind == 3).expect("zeroes");
                model[offset..offset + length].fill(0);
            }
        }
        if round % 20 == 0 {
            disk.0.flush().expect("a flush");
        }
    }
    disk.0.flush().expect("a flush");
    // What was freed is counted as free.
    disk.0.flush().expect("a flush");
}

#[test]
#[ignore = "needs qemu-img: cargo lab test"]
fn what_is_written_here_is_sound_to_qemu() {
    let folder = Folder::new();
    std::fs::write(folder.path("disk.raw"), contents()).expect("a file");
    for options in [
        "",
        "-o compat=0.10",
        "-c",
        "-c -o compression_type=zstd",
        "-c -o cluster_size=512,refcount_bits=64",
        "-o cluster_size=2M",
        "-o preallocation=metadata,refcount_bits=1,cluster_size=4k",
        "-o lazy_refcounts=on,refcount_bits=8",
    ] {
        folder.img(&format!("convert -f raw -O qcow2 {options} disk.raw disk.qcow2"));
        let mut model = contents();
        let disk = open(&folder.path("disk.qcow2"), false);
        work(&disk, &mut model);
        drop(disk);
        // Lost clusters would be an error as well.
        folder.img("check disk.qcow2");
        assert!(folder.raw("disk.qcow2") == model, "{options}");
        assert!(read(&open(&folder.path("disk.qcow2"), true).0) == model, "{options}");
    }
}

#[test]
#[ignore = "needs qemu-img: cargo lab test"]
fn what_a_snapshot_has_stays() {
    let folder = Folder::new();
    std::fs::write(folder.path("disk.raw"), contents()).expect("a file");
    for options in ["", "-c", "-o cluster_size=1k"] {
        folder.img(&format!("convert -f raw -O qcow2 {options} disk.raw disk.qcow2"));
        folder.img("snapshot -c before disk.qcow2");
        let mut model = contents();
        let disk = open(&folder.path("disk.qcow2"), false);
        work(&disk, &mut model);
        drop(disk);
        folder.img("check disk.qcow2");
        assert!(folder.raw("disk.qcow2") == model, "{options}");
        folder.img("snapshot -a before disk.qcow2");
        folder.img("check disk.qcow2");
        assert!(folder.raw("disk.qcow2") == contents(), "{options}");
    }
}

#[test]
#[ignore = "needs qemu-img: cargo lab test"]
fn bitmaps_are_given_up_and_the_image_is_sound() {
    let folder = Folder::new();
    folder.img(&format!("create -f qcow2 disk.qcow2 {SIZE}"));
    folder.img("bitmap --add disk.qcow2 backup");
    let mut model = vec![0; SIZE];
    let disk = open(&folder.path("disk.qcow2"), false);
    write(&disk, 5000, &[7; 100_000], &mut model);
    disk.0.flush().expect("a flush");
    drop(disk);
    // Whoever knows bitmaps finds that these are out of date, and drops them.
    folder.img("check -r leaks disk.qcow2");
    folder.img("check disk.qcow2");
    assert!(folder.raw("disk.qcow2") == model);
}
