//! A file of policies and guests. The fuzzer calls this, and so does a test of the crate `policies`
//! with all seeds and the corpus, which is why this file is part of both.

use policies::{Documents, Source, parse};

/// Most errors that are told of one file, and one that counts the rest.
const MOST_ERRORS: usize = 51;
/// No error needs more room, however long the line it points at is.
const LONGEST_ERROR: usize = 8192;

/// Any bytes: what is not text never comes so far, so that only text is tried.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = || parse(&[Source { name: "fuzzed.yaml".to_owned(), text: text.to_owned() }]);
    match read() {
        Ok(documents) => understood(&documents, read()),
        Err(errors) => {
            let lines = text.split(['\n', '\r']).count();
            assert!((1..=MOST_ERRORS).contains(&errors.iter().count()));
            for error in errors.iter() {
                assert!(error.line().is_none_or(|line| (1..=lines).contains(&line)));
                let shown = error.to_string();
                assert!(shown.len() <= LONGEST_ERROR, "{} bytes", shown.len());
                let odd = |c: char| c.is_control() && c != '\n';
                assert!(!shown.contains(odd), "{shown:?}");
            }
        }
    }
}

/// What was understood means the same every time, and survives being saved and read again.
fn understood(documents: &Documents, again: Result<Documents, policies::Errors>) {
    assert_eq!(again.as_ref().ok(), Some(documents));
    let json = serde_json::to_string(documents).expect("plain data");
    let saved: Documents = serde_json::from_str(&json).expect("what was written");
    assert_eq!(&saved, documents);
    for pool in documents.policies.iter().flat_map(|policy| &policy.pools) {
        assert!(pool.from.to_string().len() > 2, "a selector that selects nothing");
        if let Some((count, indexes)) = pool.vfs() {
            assert!(count > 0 && indexes.last() < count);
        }
        if let Some(rate) = pool.network.rate {
            assert!(rate.max == 0 || rate.min <= rate.max);
        }
        if let Some(vlan) = pool.network.vlan {
            assert!(vlan.id <= 4094 && vlan.qos <= 7);
        }
    }
}
