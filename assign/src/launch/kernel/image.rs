//! Where the compressed kernel lies in a bzImage (Linux Documentation/arch/x86/boot.rst).

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Largest payload in bytes that is looked at; distributions' have 8 to 20 MiB.
const PAYLOAD_MAX: u64 = 128 << 20;
/// Bytes of the setup header that are read: up to `payload_length`.
const HEADER: usize = 0x250;
/// First boot protocol with `payload_offset`.
const PROTOCOL_2_08: u16 = 0x208;
const SECTOR: u64 = 512;

/// Part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Offset in the file in bytes.
    pub offset: u64,
    /// Bytes, at least one.
    pub length: u64,
}

/// Whether it says that it is one.
pub fn is_bzimage(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0x202).is_ok() && magic == *b"HdrS"
}

/// The payload of a bzImage, which lies within the file.
///
/// # Errors
/// Why there is none.
pub fn payload(file: &File) -> Result<Payload, String> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).map_err(|error| format!("its header: {error}"))?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    within(&header, length)
}

fn within(header: &[u8; HEADER], length: u64) -> Result<Payload, String> {
    let number = |at: usize| {
        u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|byte: usize| header[at + byte])))
    };
    if u16::from_le_bytes([header[0x206], header[0x207]]) < PROTOCOL_2_08 {
        return Err("it is older than Linux 2.6.26".to_owned());
    }
    // 0 means 4, for the sake of loaders of long ago; the boot sector comes on top.
    let sectors = if header[0x1f1] == 0 { 4 } else { u64::from(header[0x1f1]) };
    let payload = Payload { offset: (sectors + 1) * SECTOR + number(0x248), length: number(0x24c) };
    if payload.length == 0 || payload.offset + payload.length > length {
        return Err("its payload does not lie within the file".to_owned());
    }
    if payload.length > PAYLOAD_MAX {
        return Err(format!("its payload has more than {} MiB", PAYLOAD_MAX >> 20));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{bzimage, file};
    use super::*;

    #[test]
    fn the_payload_is_found() {
        let image = bzimage(b"payload");
        let found = payload(&file(&image)).expect("a payload");
        assert_eq!(found, Payload { offset: 1536, length: 7 });
        assert_eq!(&image[1536..1543], b"payload");
    }

    #[test]
    fn a_payload_elsewhere_is_refused() {
        let refusal = |change: fn(&mut Vec<u8>)| {
            let mut image = bzimage(b"payload");
            change(&mut image);
            payload(&file(&image)).expect_err("no payload")
        };
        let beyond = "within the file";
        assert!(refusal(|image| image.truncate(1540)).contains(beyond));
        assert!(refusal(|image| image[0x248..0x24c].fill(0xff)).contains(beyond));
        assert!(refusal(|image| image[0x24c..0x250].fill(0xff)).contains(beyond));
        assert!(refusal(|image| image[0x24c..0x250].fill(0)).contains(beyond));
        assert!(refusal(|image| image[0x1f1] = 0xff).contains(beyond));
        assert!(refusal(|image| image[0x1f1] = 0).contains(beyond));
        assert!(refusal(|image| image[0x206..0x208].fill(2)).contains("older"));
        assert!(refusal(|image| image.truncate(0x24e)).contains("header"));
    }

    proptest! {
        #[test]
        fn whatever_a_header_says_the_payload_is_in_the_file(
            bytes in prop::collection::vec(any::<u8>(), HEADER),
            length in any::<u32>(),
        ) {
            let header = <[u8; HEADER]>::try_from(bytes).expect("so many");
            if let Ok(found) = within(&header, length.into()) {
                prop_assert!(found.length > 0 && found.length <= PAYLOAD_MAX);
                prop_assert!(found.offset + found.length <= length.into());
            }
        }
    }
}
