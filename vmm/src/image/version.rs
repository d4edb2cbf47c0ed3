//! Which of two versions is the newer one, as the Boot Loader Specification has it (UAPI.10, Version
//! Format Specification).

use std::cmp::Ordering;

/// Compares two versions: the newer one is greater.
pub fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    'parts: loop {
        (one, other) = (trimmed(one), trimmed(other));
        for mark in *b"~-^." {
            // Whoever ends here is newer than what a tilde makes older, and older than all else.
            if mark != b'~' && (one.is_empty() || other.is_empty()) {
                return one.len().min(1).cmp(&other.len().min(1));
            }
            match (one.first() == Some(&mark), other.first() == Some(&mark)) {
                (true, true) => {
                    (one, other) = (&one[1..], &other[1..]);
                    continue 'parts;
                }
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                (false, false) => {}
            }
        }
        let found = if starts_with_digit(one) || starts_with_digit(other) {
            let (a, rest) = split(one, u8::is_ascii_digit);
            let (b, others) = split(other, u8::is_ascii_digit);
            (one, other) = (rest, others);
            let (a, b) = (without_zeros(a), without_zeros(b));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        } else {
            let (a, rest) = split(one, u8::is_ascii_alphabetic);
            let (b, others) = split(other, u8::is_ascii_alphabetic);
            (one, other) = (rest, others);
            a.cmp(b)
        };
        if found != Ordering::Equal {
            return found;
        }
    }
}

fn starts_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

/// Without what separates parts and says nothing.
fn trimmed(text: &[u8]) -> &[u8] {
    let counts = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    let start = text.iter().position(counts).unwrap_or(text.len());
    &text[start..]
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let start = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    &digits[start..]
}

fn split(text: &[u8], is: fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !is(byte)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification, and what kernels of distributions are called.
    #[test]
    fn versions_are_in_the_order_of_the_specification() {
        let ascending = [
            "~1",
            "",
            "ab",
            "abb",
            "abc",
            "0001",
            "002",
            "12",
            "122",
            "122.9",
            "123~rc1",
            "123",
            "123-a",
            "123-a.1",
            "123-a1",
            "123-a1.1",
            "123-3",
            "123-3.1",
            "123^patch1",
            "123^1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124",
        ];
        for (at, older) in ascending.iter().enumerate() {
            for (to, newer) in ascending.iter().enumerate() {
                assert_eq!(compare(older, newer), at.cmp(&to), "{older:?} and {newer:?}");
            }
        }
        for (older, newer) in [
            ("5.14.0-9.el9.x86_64", "5.14.0-70.13.1.el9_0.x86_64"),
            ("6.11.4-301.fc41.x86_64", "6.12.0-1.fc41.x86_64"),
            ("m-0-rescue", "m-6.1.0-18-amd64"),
        ] {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} and {newer}");
        }
    }

    #[test]
    fn every_comparison_ends() {
        for one in ["-", "--", "~", "^.", "_", "é", "1_", "a-"] {
            for other in ["-", "--", "~", "^.", "_", "é", "1_", "a-", ""] {
                assert_eq!(compare(one, other), compare(other, one).reverse(), "{one} {other}");
            }
        }
    }
}
