//! Amounts with their units: memory, rates, speeds.

use std::str::FromStr;

use crate::document::Value;
use crate::error::{Report, quote};
use crate::fields::Given;
use crate::grammar::Text;

/// An amount of memory.
pub(crate) const SIZE: Text = Text {
    accepted: "a whole number with MiB or GiB, such as 512MiB or 2GiB",
    pattern: r"^[1-9][0-9]*\s*(MiB|GiB)$",
};
/// A rate of sending, besides a plain number.
pub(crate) const RATE: Text = Text {
    accepted: "a whole number of Mbit/s, or one with Mbit or Gbit, such as 500Mbit or 1Gbit",
    pattern: r"^(0|[1-9][0-9]*)\s*(Mbit|Gbit)(/s)?$",
};
/// The speed of a link, as the PCI Express specification writes it.
pub(crate) const SPEED: Text = Text {
    accepted: "a speed such as 2.5GT/s, 8GT/s or 16GT/s",
    pattern: r"^([1-9][0-9]{0,2}(\.[0-9])?|0\.[1-9])\s*GT/s$",
};

/// A part of something, or a multiple of it.
pub(crate) const PERCENT: Text = Text {
    accepted: "a whole number of percent, such as 50% or 150%",
    pattern: r"^[1-9][0-9]*\s*%$",
};

/// A whole number in decimal, without sign and leading zeros.
pub(crate) fn decimal<T: FromStr>(digits: &str) -> Option<T> {
    let plain = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    let octal = digits.len() > 1 && digits.starts_with('0');
    (plain && !octal).then(|| digits.parse().ok()).flatten()
}

/// A number and what follows it, the spaces between them left out.
fn split(text: &str) -> (&str, &str) {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    (digits, unit.trim_start())
}

/// An amount of memory as the language writes it, `512MiB` or `2GiB`, in bytes; none where `text` is not
/// that, or more than 64 bits can tell.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = split(text);
    let shift = match unit {
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    decimal::<u64>(digits).and_then(|count| count.checked_mul(1 << shift))
}

/// Reads a [`SIZE`], in bytes.
pub(crate) fn size(given: Given<'_>, report: &mut Report<'_>) -> Option<u64> {
    let Value::Scalar { text, .. } = &given.node.value else {
        return given.wrong(format!("is a size, not {}", given.node.describe()), report);
    };
    match split(text) {
        (digits, "") if !digits.is_empty() => {
            given.wrong(format!("has no unit: {}", quote(text)), report)
        }
        _ => given.or_cannot_be(parse_size(text), text, report),
    }
}

/// Reads a [`PERCENT`] of at most `most`.
pub(crate) fn percent(given: Given<'_>, most: u64, report: &mut Report<'_>) -> Option<u32> {
    let Value::Scalar { text, .. } = &given.node.value else {
        return given.wrong(format!("is a percentage, not {}", given.node.describe()), report);
    };
    let (digits, unit) = split(text);
    if unit.is_empty() && !digits.is_empty() {
        return given.wrong(format!("has no unit: {}", quote(text)), report);
    }
    let percent = decimal::<u32>(digits).filter(|percent| unit == "%" && *percent > 0);
    let percent: Option<u32> = given.or_cannot_be(percent, text, report);
    match percent {
        Some(percent) if u64::from(percent) > most => {
            let message = format!("{} is {percent}%, which is out of range", given.what());
            report.error(given.node.span, message, Some(&format!("1% to {most}%")));
            None
        }
        percent => percent,
    }
}

/// Reads a [`RATE`], in Mbit/s.
pub(crate) fn rate(given: Given<'_>, report: &mut Report<'_>) -> Option<u32> {
    let Value::Scalar { text, plain } = &given.node.value else {
        return given.wrong(format!("is a rate, not {}", given.node.describe()), report);
    };
    let (digits, unit) = split(text);
    let factor = match unit {
        "" if *plain => Some(1),
        "Mbit" | "Mbit/s" => Some(1),
        "Gbit" | "Gbit/s" => Some(1000),
        _ => None,
    };
    let rate = decimal::<u32>(digits).zip(factor);
    given.or_cannot_be(rate.and_then(|(count, factor)| count.checked_mul(factor)), text, report)
}

/// Reads a [`SPEED`], in MT/s.
pub(crate) fn speed(given: Given<'_>, report: &mut Report<'_>) -> Option<u32> {
    let Value::Scalar { text, .. } = &given.node.value else {
        return given.wrong(format!("is a speed, not {}", given.node.describe()), report);
    };
    given.or_cannot_be(megatransfers(text), text, report)
}

fn megatransfers(text: &str) -> Option<u32> {
    let number = text.strip_suffix("GT/s")?.trim_end();
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let (whole, tenths) = (decimal::<u32>(whole)?, decimal::<u32>(tenths)?);
    (whole < 1000 && tenths < 10).then_some(whole * 1000 + tenths * 100).filter(|speed| *speed > 0)
}

/// So many vCPUs, in words.
pub(crate) fn vcpus(count: u8) -> String {
    if count == 1 { "1 vCPU".to_owned() } else { format!("{count} vCPUs") }
}

/// A speed in MT/s as it is written: `2.5GT/s`.
pub(crate) fn show_speed(speed: u32) -> String {
    match (speed / 1000, speed % 1000 / 100) {
        (whole, 0) => format!("{whole}GT/s"),
        (whole, tenths) => format!("{whole}.{tenths}GT/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_as_they_are_shown() {
        for (text, value) in [
            ("2.5GT/s", Some(2500)),
            ("8GT/s", Some(8000)),
            ("8.0 GT/s", Some(8000)),
            ("64GT/s", Some(64_000)),
            ("0.5GT/s", Some(500)),
            ("0GT/s", None),
            ("08GT/s", None),
            ("1000GT/s", None),
            ("2.55GT/s", None),
            ("8", None),
            ("GT/s", None),
            ("-8GT/s", None),
            ("8GT", None),
        ] {
            assert_eq!(megatransfers(text), value, "{text:?}");
        }
        assert_eq!((show_speed(2500), show_speed(16_000)), ("2.5GT/s".into(), "16GT/s".into()));
    }
}
