//! One datagram of the kernel's answer: messages, an acknowledgement, or an error with its cause.

use std::fmt;
use std::io;

use super::attributes::{attributes, half, word};

/// The header of a message: length, type, flags, sequence number, port (netlink(7)).
const HEADER: usize = 16;
/// Types of messages that are about the exchange itself (uapi/linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Types below this one are not the family's.
const NLMSG_MIN_TYPE: u16 = 0x10;
/// The request was left out of the error but for its header.
const NLM_F_CAPPED: u16 = 0x100;
/// Attributes say more about the error, the first of them in words.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What the kernel answered instead of doing it.
#[derive(Debug)]
pub struct NetlinkError {
    /// Its error.
    pub source: io::Error,
    /// What it, or the driver, said about it in words.
    pub said: Option<String>,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.said {
            Some(said) => write!(f, "{} ({said})", self.source),
            None => self.source.fmt(f),
        }
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> NetlinkError {
        NetlinkError { source, said: None }
    }
}

impl From<NetlinkError> for io::Error {
    fn from(error: NetlinkError) -> io::Error {
        error.source
    }
}

/// One part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A message of the family: its type, and what follows its header.
    Message(u16, &'a [u8]),
    /// A dump is over, or a change was made.
    End,
}

/// The parts of a datagram that answer the request of this number, up to the first end.
///
/// # Errors
/// The kernel's error to the request, or the datagram makes no sense.
pub fn parts(datagram: &[u8], sequence: u32) -> Result<Vec<Part<'_>>, NetlinkError> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off");
    let mut parts = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let length =
            word(rest, 0).and_then(|length| usize::try_from(length).ok()).ok_or_else(cut)?;
        let body = rest.get(HEADER..length).ok_or_else(cut)?;
        let (kind, flags) = (half(rest, 4).ok_or_else(cut)?, half(rest, 6).ok_or_else(cut)?);
        let ours = word(rest, 8) == Some(sequence);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        match kind {
            _ if !ours => {}
            NLMSG_ERROR => {
                check(body, flags)?;
                parts.push(Part::End);
                return Ok(parts);
            }
            NLMSG_DONE => {
                // A dump that broke off says why here.
                if body.len() >= 4 {
                    check(body, NLM_F_CAPPED)?;
                }
                parts.push(Part::End);
                return Ok(parts);
            }
            kind if kind >= NLMSG_MIN_TYPE => parts.push(Part::Message(kind, body)),
            _ => {}
        }
    }
    Ok(parts)
}

/// The error in a message: a negative errno, 0 for none, then the request, then words.
fn check(body: &[u8], flags: u16) -> Result<(), NetlinkError> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's error is cut off");
    let code = word(body, 0).ok_or_else(cut)?.cast_signed();
    if code == 0 {
        return Ok(());
    }
    let said = (flags & NLM_F_ACK_TLVS != 0).then(|| words(body, flags)).flatten();
    Err(NetlinkError { source: io::Error::from_raw_os_error(code.saturating_neg()), said })
}

fn words(body: &[u8], flags: u16) -> Option<String> {
    let request = match flags & NLM_F_CAPPED {
        0 => usize::try_from(word(body, 4)?).ok()?.checked_next_multiple_of(4)?,
        _ => HEADER,
    };
    let list = body.get(4usize.checked_add(request)?..)?;
    let (_, text) = attributes(list).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text);
    let text: String =
        text.trim_end_matches('\0').chars().filter(|c| !c.is_control()).take(300).collect();
    let text = text.trim_end_matches(['.', ' ']);
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// EOPNOTSUPP to a request of 16 bytes, with a driver's words.
    fn refusal() -> Vec<u8> {
        let text = b"VF is not trusted.\0";
        let mut body = (-95i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend((4 + text.len() as u16).to_ne_bytes());
        body.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        body.extend(text);
        message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 7, &body)
    }

    #[test]
    fn messages_end_with_an_end_and_others_are_passed_over() {
        let datagram = [
            message(16, 2, 6, b"of another request"),
            message(16, 2, 7, b"one"),
            message(1, 0, 7, b"nothing"),
            message(17, 2, 7, b"four"),
            message(NLMSG_DONE, 2, 7, &[0; 4]),
            message(16, 2, 7, b"late"),
        ]
        .concat();
        let expected = [Part::Message(16, b"one"), Part::Message(17, b"four"), Part::End];
        assert_eq!(parts(&datagram, 7).expect("an answer"), expected);
        let acknowledged = message(NLMSG_ERROR, 0, 7, &[0; 20]);
        assert_eq!(parts(&acknowledged, 7).expect("an answer"), [Part::End]);
    }

    #[test]
    fn an_error_brings_the_drivers_words() {
        let error = parts(&refusal(), 7).expect_err("an error");
        assert_eq!(error.source.raw_os_error(), Some(95));
        assert_eq!(error.said.as_deref(), Some("VF is not trusted"));
        let broken_off = message(NLMSG_DONE, 2, 7, &(-5i32).to_ne_bytes());
        let error = parts(&broken_off, 7).expect_err("an error");
        assert_eq!(error.source.raw_os_error(), Some(5));
        assert_eq!(error.said, None);
    }

    #[test]
    fn what_is_cut_off_or_absurd_is_an_error_and_no_panic() {
        let whole = [message(16, 2, 7, b"abcdefgh"), refusal()].concat();
        for length in 0..whole.len() {
            parts(&whole[..length], 7).ok();
        }
        for at in 0..whole.len() {
            for value in [0, 1, 15, 0x7f, 0xff] {
                let mut odd = whole.clone();
                odd[at] = value;
                parts(&odd, 7).ok();
            }
        }
        for length in [0u32, 15, 17, u32::MAX] {
            let mut odd = message(16, 2, 7, b"");
            odd[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(parts(&odd, 7).is_err(), "{length}");
        }
    }
}
