//! Indexes of VFs, as ranges.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::amounts::decimal;
use crate::document::Value;
use crate::error::Report;
use crate::error::quote;
use crate::fields::Given;
use crate::grammar::Text;

/// VF indexes of one PF, as ranges that are sorted and do not touch.
///
/// Printed and stored in the form it is written in: `0-3`, `0,2-3`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VfIndexes {
    ranges: Vec<(u16, u16)>,
}

/// How `use` is written. A single index may stand without quotes.
pub(crate) const INDEXES: Text =
    Text { accepted: r#"indexes and ranges such as "0", "0-3" or "0,2-3""#, pattern: RANGES };

/// Numbers and ranges of them, as a regular expression.
pub(crate) const RANGES: &str = concat!(
    r"^\s*(0|[1-9][0-9]*)(-(0|[1-9][0-9]*))?",
    r"\s*(,\s*(0|[1-9][0-9]*)(-(0|[1-9][0-9]*))?\s*)*$"
);

impl VfIndexes {
    /// The indexes `0..count`. `count` must not be 0; a count of 0 is taken as 1.
    pub fn first(count: u16) -> VfIndexes {
        VfIndexes { ranges: vec![(0, count.saturating_sub(1))] }
    }

    /// The indexes in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|(low, high)| *low..=*high)
    }

    /// Whether `index` is among them.
    pub fn contains(&self, index: u16) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&index))
    }

    /// The greatest index.
    pub fn last(&self) -> u16 {
        self.ranges.last().map_or(0, |(_, high)| *high)
    }

    /// The lowest index that both have.
    pub fn overlap(&self, other: &VfIndexes) -> Option<u16> {
        let both = |a: &(u16, u16), b: &(u16, u16)| {
            let low = a.0.max(b.0);
            (low <= a.1.min(b.1)).then_some(low)
        };
        self.ranges.iter().flat_map(|a| other.ranges.iter().filter_map(move |b| both(a, b))).min()
    }

    /// Reads `0,2-3`. Spaces around commas are allowed, an index given twice is not.
    pub(crate) fn parse(text: &str) -> Result<VfIndexes, String> {
        Ok(VfIndexes { ranges: ranges(text, "VF index", "VF")? })
    }
}

/// Reads numbers and ranges of them, such as `0,2-3`: ranges that are sorted and do not touch, at least
/// one. Spaces around commas are allowed, a number given twice is not. Messages call what is no number
/// no `number`, and one of the things that are numbered a `thing`.
pub(crate) fn ranges(text: &str, number: &str, thing: &str) -> Result<Vec<(u16, u16)>, String> {
    let read = |text: &str| -> Result<u16, String> {
        decimal(text).ok_or_else(|| format!("{} is no {number}", quote(text)))
    };
    let mut ranges = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (low, high) = match part.split_once('-') {
            Some((low, high)) => (read(low)?, read(high)?),
            None => (read(part)?, read(part)?),
        };
        if low > high {
            return Err(format!("the range {} runs backwards", quote(part)));
        }
        ranges.push((low, high));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (low, high) in ranges {
        match merged.last_mut() {
            Some(last) if low <= last.1 => return Err(format!("{thing} {low} is named twice")),
            // `last.1 < low`, so adding 1 cannot overflow.
            Some(last) if last.1 + 1 == low => last.1 = high,
            _ => merged.push((low, high)),
        }
    }
    Ok(merged)
}

impl fmt::Display for VfIndexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (low, high)) in self.ranges.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            match low == high {
                true => write!(f, "{comma}{low}")?,
                false => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

impl From<VfIndexes> for String {
    fn from(indexes: VfIndexes) -> String {
        indexes.to_string()
    }
}

impl TryFrom<String> for VfIndexes {
    type Error = String;

    fn try_from(text: String) -> Result<VfIndexes, String> {
        VfIndexes::parse(&text)
    }
}

/// Reads `use`.
pub(crate) fn read(given: Given<'_>, report: &mut Report<'_>) -> Option<VfIndexes> {
    let Value::Scalar { text, .. } = &given.node.value else {
        return given.wrong(format!("is text, not {}", given.node.describe()), report);
    };
    VfIndexes::parse(text)
        .map_err(|why| given.wrong::<()>(format!("cannot be that: {why}"), report))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_read_sorted_and_joined() {
        let read = |text| VfIndexes::parse(text).map(|indexes| indexes.to_string());
        assert_eq!(read("0-3").as_deref(), Ok("0-3"));
        assert_eq!(read("2-3, 0").as_deref(), Ok("0,2-3"));
        assert_eq!(read("1,0,2").as_deref(), Ok("0-2"));
        assert_eq!(read("65535").as_deref(), Ok("65535"));
        for wrong in
            ["", "-", "0-", "-1", "3-1", "0,0", "0-3,2", "65536", "a", "0--1", "1,", "+1", "010"]
        {
            assert!(VfIndexes::parse(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn overlap_finds_the_lowest_common_index() {
        let read = |text| VfIndexes::parse(text).unwrap();
        assert_eq!(read("0-3").overlap(&read("2-5")), Some(2));
        assert_eq!(read("0,2").overlap(&read("1,3")), None);
    }
}
