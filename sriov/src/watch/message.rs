//! What a device event looks like on the wire, in both dialects.
//!
//! ```text
//! kernel  "bind@/devices/pci0000:00/…" NUL  "ACTION=bind" NUL "DEVPATH=…" NUL …
//! udev    "libudev" NUL, magic, sizes, hashes …             "ACTION=bind" NUL "DEVPATH=…" NUL …
//! ```
//!
//! The kernel's is in lib/kobject_uevent.c; udev's header, 40 bytes in the machine's byte order
//! but for its magic number, is in systemd's src/libsystemd/sd-device/device-monitor.c.

use std::collections::BTreeMap;

/// Most properties of one event. The kernel writes at most 64 (`UEVENT_NUM_ENVP`), udev's rules
/// add some dozens.
const MOST_PROPERTIES: usize = 1024;
/// Marks udev's messages, in network byte order.
const MAGIC: u32 = 0xfeed_cafe;
/// What udev's messages begin with.
const PREFIX: &[u8] = b"libudev\0";
/// Length of udev's header.
const HEADER: usize = 40;

/// One device event: its properties by name. `ACTION`, `DEVPATH` and `SUBSYSTEM` are always there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    properties: BTreeMap<String, String>,
}

/// A message that is not as the kernel or udev writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends before its header does.
    #[error("it ends within its header")]
    Short,
    /// It does not begin as it should.
    #[error("it does not begin as {0} begins its messages")]
    Header(&'static str),
    /// Its header names a place outside of it.
    #[error("its properties lie outside of it (offset {offset}, length {length})")]
    Outside {
        /// Where they were said to begin.
        offset: u32,
        /// How many bytes there were said to be.
        length: u32,
    },
    /// Something between two NUL bytes is no property.
    #[error("{0:?} is not a property")]
    Property(String),
    /// More properties than any event has.
    #[error("it has more than {MOST_PROPERTIES} properties")]
    TooMany,
    /// What every event has is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
}

impl Uevent {
    /// Understands a message of the kernel.
    ///
    /// # Errors
    /// The message is not as the kernel writes it.
    pub fn of_kernel(message: &[u8]) -> Result<Uevent, Malformed> {
        let end = message.iter().position(|byte| *byte == 0).ok_or(Malformed::Short)?;
        let (head, rest) = message.split_at_checked(end).ok_or(Malformed::Short)?;
        if !head.contains(&b'@') {
            return Err(Malformed::Header("the kernel"));
        }
        Uevent::of_properties(rest)
    }

    /// Understands a message of udev.
    ///
    /// # Errors
    /// The message is not as udev writes it.
    pub fn of_udev(message: &[u8]) -> Result<Uevent, Malformed> {
        let header = message.get(..HEADER).ok_or(Malformed::Short)?;
        let word = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or(Malformed::Short)
        };
        if !header.starts_with(PREFIX) || u32::from_be_bytes(word(8)?) != MAGIC {
            return Err(Malformed::Header("udev"));
        }
        let (offset, length) = (u32::from_ne_bytes(word(16)?), u32::from_ne_bytes(word(20)?));
        let outside = Malformed::Outside { offset, length };
        let (from, bytes) = (offset as usize, length as usize);
        if from < HEADER {
            return Err(outside);
        }
        let to = from.checked_add(bytes).ok_or_else(|| outside.clone())?;
        Uevent::of_properties(message.get(from..to).ok_or(outside)?)
    }

    /// `KEY=value`, each ended by NUL. What is not UTF-8 is replaced.
    fn of_properties(bytes: &[u8]) -> Result<Uevent, Malformed> {
        let mut properties = BTreeMap::new();
        for part in bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty()) {
            let text = String::from_utf8_lossy(part);
            let (key, value) = match text.split_once('=') {
                Some((key, value)) if !key.is_empty() => (key, value),
                _ => return Err(Malformed::Property(text.chars().take(64).collect())),
            };
            if properties.len() == MOST_PROPERTIES {
                return Err(Malformed::TooMany);
            }
            properties.insert(key.to_owned(), value.to_owned());
        }
        for key in ["ACTION", "DEVPATH", "SUBSYSTEM"] {
            if !properties.contains_key(key) {
                return Err(Malformed::Missing(key));
            }
        }
        Ok(Uevent { properties })
    }

    /// A property's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(String::as_str)
    }

    /// What happened: `add`, `remove`, `change`, `move`, `bind`, `unbind`, …
    pub fn action(&self) -> &str {
        self.get("ACTION").unwrap_or_default()
    }

    /// The device's directory below `/sys`, with a slash in front.
    pub fn path(&self) -> &str {
        self.get("DEVPATH").unwrap_or_default()
    }

    /// The class or bus: `pci`, `net`, `block`, `vfio`, …
    pub fn subsystem(&self) -> &str {
        self.get("SUBSYSTEM").unwrap_or_default()
    }

    /// The kernel's number of this event, counted from boot; udev passes it on.
    pub fn number(&self) -> Option<u64> {
        self.get("SEQNUM")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kernel 6.12 sent it when a VF of an igb NIC was bound.
    const BIND: &[u8] = b"bind@/devices/pci0000:00/0000:00:02.0/0000:01:10.0\0ACTION=bind\0\
        DEVPATH=/devices/pci0000:00/0000:00:02.0/0000:01:10.0\0SUBSYSTEM=pci\0DRIVER=vfio-pci\0\
        PCI_CLASS=20000\0PCI_ID=8086:10CA\0PCI_SUBSYS_ID=8086:0000\0PCI_SLOT_NAME=0000:01:10.0\0\
        MODALIAS=pci:v00008086d000010CAsv00008086sd00000000bc02sc00i00\0SEQNUM=1612\0";

    /// The same as udev 257 passes it on: header of 40 bytes, hash of the subsystem, properties.
    fn of_udev(properties: &[u8]) -> Vec<u8> {
        let mut message = b"libudev\0\xfe\xed\xca\xfe".to_vec();
        let length = u32::try_from(properties.len()).expect("a short message");
        for word in [40, 40, length] {
            message.extend(word.to_ne_bytes());
        }
        for word in [0x1b99_6e04_u32, 0, 0, 0] {
            message.extend(word.to_be_bytes());
        }
        message.extend(properties);
        message
    }

    #[test]
    fn reads_both_dialects() {
        let kernel = Uevent::of_kernel(BIND).expect("the kernel's");
        assert_eq!((kernel.action(), kernel.subsystem()), ("bind", "pci"));
        assert_eq!(kernel.path(), "/devices/pci0000:00/0000:00:02.0/0000:01:10.0");
        assert_eq!((kernel.get("DRIVER"), kernel.number()), (Some("vfio-pci"), Some(1612)));

        let properties = BIND.splitn(2, |byte| *byte == 0).nth(1).expect("properties");
        let udev = Uevent::of_udev(&of_udev(properties)).expect("udev's");
        assert_eq!(udev, kernel);
        // Neither is taken for the other.
        assert_eq!(Uevent::of_udev(BIND), Err(Malformed::Header("udev")));
        assert_eq!(Uevent::of_kernel(&of_udev(properties)), Err(Malformed::Header("the kernel")));
    }

    #[test]
    fn says_what_is_wrong_with_a_message() {
        assert_eq!(Uevent::of_kernel(b""), Err(Malformed::Short));
        assert_eq!(Uevent::of_kernel(b"add@/devices/x"), Err(Malformed::Short));
        let kernel = |text: &str| Uevent::of_kernel(text.as_bytes());
        assert_eq!(kernel("add@/x\0ACTION=add\0"), Err(Malformed::Missing("DEVPATH")));
        assert_eq!(kernel("add@/x\0=add\0"), Err(Malformed::Property("=add".into())));
        let many: String = (0..2000).map(|number| format!("K{number}=\0")).collect();
        assert_eq!(kernel(&format!("add@/x\0{many}")), Err(Malformed::TooMany));

        let whole = of_udev(b"ACTION=add\0DEVPATH=/x\0SUBSYSTEM=pci\0");
        Uevent::of_udev(&whole).expect("whole");
        for length in 0..whole.len() {
            let cut = whole.get(..length).expect("a part");
            let error = Uevent::of_udev(cut).expect_err("cut off");
            let outside = matches!(error, Malformed::Outside { offset: 40, .. });
            assert!(if length < 40 { error == Malformed::Short } else { outside }, "{error}");
        }
        for (at, word) in [(16, 0_u32), (16, u32::MAX), (20, u32::MAX), (20, 41)] {
            let mut wrong = whole.clone();
            wrong.get_mut(at..at + 4).expect("a word").copy_from_slice(&word.to_ne_bytes());
            let error = Uevent::of_udev(&wrong).expect_err("out of its bounds");
            assert!(matches!(error, Malformed::Outside { .. }), "{error}");
        }
    }
}
