//! The kernel's compressions, as `lib/decompress*.c` of Linux has them, except for those that no
//! distribution has used for years (bzip2, lzo).

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;

use super::image::Payload;

/// Largest kernel in bytes that is unpacked; distributions' have 40 to 80 MiB.
const KERNEL_MAX: u64 = 256 << 20;
/// Most memory of a decoder in KiB: zstd and xz say themselves how far back they refer. Linux's own
/// images use up to 128 MiB.
const DECODER_MAX_KIB: u32 = 160 << 10;
/// Bytes of a block of the legacy format of lz4, unpacked.
const LZ4_BLOCK: usize = 8 << 20;
/// Behind the compressed data Linux's build writes its size, four bytes.
const SIZE_APPENDED: u64 = 4;
const BUFFER: usize = 64 << 10;

/// A part of a file as a stream.
struct Part<'a> {
    file: &'a File,
    rest: Payload,
}

impl Read for Part<'_> {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.rest.length).unwrap_or(usize::MAX).min(data.len());
        let count = self.file.read_at(&mut data[..most], self.rest.offset)?;
        self.rest.offset += count as u64;
        self.rest.length -= count as u64;
        Ok(count)
    }
}

/// Writes what `payload` of `file` holds to `out`.
///
/// # Errors
/// In which compression, and why not.
pub fn unpack(file: &File, payload: Payload, out: &mut impl Write) -> Result<(), String> {
    let mut magic = [0; 6];
    let count = Part { file, rest: payload }.read(&mut magic).map_err(|error| error.to_string())?;
    let source = || BufReader::with_capacity(BUFFER, Part { file, rest: payload });
    let copied = |name: &str, result: io::Result<u64>| {
        result.map(drop).map_err(|error| format!("its {name} payload: {error}"))
    };
    match &magic[..count] {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let most = u64::from(DECODER_MAX_KIB) << 10;
            let decoder =
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(source(), most);
            let decoder = decoder.map_err(|error| format!("its zstd payload: {error}"))?;
            copied("zstd", copy(decoder, out))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let decoder = lzma_rust2::XzReader::new_mem_limit(source(), false, DECODER_MAX_KIB);
            copied("xz", copy(decoder, out))
        }
        [0x1f, 0x8b, ..] => copied("gzip", copy(flate2::bufread::GzDecoder::new(source()), out)),
        [0x5d, 0, 0, ..] => {
            let decoder = lzma_rust2::LzmaReader::new_mem_limit(source(), DECODER_MAX_KIB, None);
            copied("lzma", decoder.and_then(|decoder| copy(decoder, out)))
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            copied("lz4", unpack_lz4(Part { file, rest: payload }, out))
        }
        _ => Err(format!("its payload is compressed in a way that is not known: {magic:02x?}")),
    }
}

fn copy(decoder: impl Read, out: &mut impl Write) -> io::Result<u64> {
    let mut limited = decoder.take(KERNEL_MAX);
    let copied = io::copy(&mut limited, out)?;
    if copied == KERNEL_MAX { Err(too_large()) } else { Ok(copied) }
}

fn too_large() -> io::Error {
    io::Error::other(format!("it has more than {} MiB unpacked", KERNEL_MAX >> 20))
}

/// The legacy format of lz4: a magic number, then blocks, each behind its size.
fn unpack_lz4(mut source: Part<'_>, out: &mut impl Write) -> io::Result<u64> {
    let mut word = [0; 4];
    source.read_exact(&mut word)?;
    let mut total = 0;
    let (mut packed, mut plain) = (Vec::new(), vec![0; LZ4_BLOCK]);
    while source.rest.length > SIZE_APPENDED {
        source.read_exact(&mut word)?;
        let size = u64::from(u32::from_le_bytes(word));
        if size == 0 || size > source.rest.length {
            return Err(io::Error::from(ErrorKind::UnexpectedEof));
        }
        packed.resize(size as usize, 0);
        source.read_exact(&mut packed)?;
        let count = lz4_flex::block::decompress_into(&packed, &mut plain);
        let count = count.map_err(io::Error::other)?;
        total += count as u64;
        if total >= KERNEL_MAX {
            return Err(too_large());
        }
        out.write_all(&plain[..count])?;
    }
    Ok(total)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::elf::tests::kernel;
    use super::super::tests::file;
    use super::*;

    /// `elf::tests::kernel` as each program packs it, followed by its size as Linux's build does it,
    /// except for gzip.
    pub const PACKED: [(&str, &str); 5] = [
        (
            "gzip",
            "1f8b0800000000000203ab77f57163626464800126063b06280f4c3930600207060b981a061628ae \
             60c00e44d06816347d42401c919a07b60f00af41de958c000000",
        ),
        (
            "xz",
            "fd377a585a0000016922de360201040021010800d2b974cbe0008b00305d003f914584683d89a6da \
             8acc93e24ef1e9e1e8f0007d9d965944ec7f3457e919cb62d3dfb4514e70052a9d308d883ab80000 \
             af41de950001488c010000002a66f4ec3e300d8b020000000001595a8c000000",
        ),
        (
            "zstd",
            "28b52ffd0068bd0100b202080ec09d03cebd118350ae9f6df044a6e01b5b1f827422589ee7836608 \
             40480abd08005b75b2d25d57e19b1918a0eb9bcae804e0028c000000",
        ),
        (
            "lz4",
            "02214c1840000000847f454c460201010001004302003e000e000107002e40000100344000382400 \
             23000404002f78000100031b1408001b043800c01200000058656e00000000018c000000",
        ),
        (
            "lzma",
            "5d00000004ffffffffffffffff003f914584683d89a6da8acc93e24ef1e9e1e8f0007d9d965944ec \
             7f3457e919cb62d3dfb4514e70052a9d308d8a138b63ffff188800008c000000",
        ),
    ];

    pub fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    fn unpacked(payload: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let whole = Payload { offset: 0, length: payload.len() as u64 };
        unpack(&file(payload), whole, &mut out).map(|()| out)
    }

    #[test]
    fn each_is_unpacked() {
        for (name, packed) in PACKED {
            assert_eq!(unpacked(&bytes(packed)), Ok(kernel()), "{name}");
        }
    }

    #[test]
    fn whatever_is_cut_off_is_an_error_or_a_beginning() {
        for (name, packed) in PACKED {
            let whole = bytes(packed);
            for length in 0..whole.len() - 8 {
                if let Ok(out) = unpacked(&whole[..length]) {
                    assert!(kernel().starts_with(&out) && name == "lz4", "{name}, {length}");
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_never_does_more_than_harm_the_result() {
        for (_, packed) in PACKED {
            let whole = bytes(packed);
            for bit in 0..whole.len() * 8 {
                let mut damaged = whole.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let _ = std::panic::catch_unwind(|| unpacked(&damaged));
            }
        }
    }

    #[test]
    fn what_unpacks_without_end_is_given_up() {
        // A block of 8 MiB of zeros, as often as it takes.
        let mut block = vec![0x1f, 0, 1, 0];
        block.resize(block.len() + (LZ4_BLOCK - 64) / 255, 0xff);
        block.extend([0, 0x50, 0, 0, 0, 0, 0]);
        let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
        for _ in 0..40 {
            payload.extend((block.len() as u32).to_le_bytes());
            payload.extend(&block);
        }
        let mut count = Count(0);
        let whole = Payload { offset: 0, length: payload.len() as u64 };
        let error = unpack(&file(&payload), whole, &mut count).expect_err("too large");
        assert!(error.contains("256 MiB"), "{error}");
        assert!(count.0 <= KERNEL_MAX);
    }

    struct Count(u64);

    impl Write for Count {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0 += data.len() as u64;
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
