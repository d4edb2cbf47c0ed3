//! The tree of functions: each below its bridge. Whoever follows it upward comes to an end.

use super::pci::PciFunction;
use super::reader::Reader;
use crate::address::PciAddress;

/// Takes away the parents that would lead in a circle (noted): the kernel has none such, a
/// recorded tree may.
pub fn mend(reader: &mut Reader, functions: &mut [PciFunction]) {
    for address in circles(functions) {
        let path = reader.root.pci_device(address);
        reader.note(&path, "the bridges above it lead in a circle");
        let at = functions.binary_search_by_key(&address, |function| function.address);
        if let Some(function) = at.ok().and_then(|at| functions.get_mut(at)) {
            function.parent = None;
        }
    }
}

/// What is known of the way up from a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Unknown,
    /// Walked right now.
    Walked,
    /// It ends.
    Ends,
}

/// One function of each circle of parents; `functions` are sorted by address. Each function is
/// walked over once.
pub fn circles(functions: &[PciFunction]) -> Vec<PciAddress> {
    let mut circles = Vec::new();
    let mut ways = vec![Way::Unknown; functions.len()];
    let place = |address: PciAddress| {
        functions.binary_search_by_key(&address, |function| function.address).ok()
    };
    for start in 0..functions.len() {
        let (mut walked, mut at) = (Vec::new(), Some(start));
        while let Some(here) = at {
            match ways.get_mut(here) {
                Some(way @ Way::Unknown) => *way = Way::Walked,
                Some(Way::Walked) => {
                    circles.extend(functions.get(here).map(|function| function.address));
                    break;
                }
                _ => break,
            }
            walked.push(here);
            at = functions.get(here).and_then(|function| function.parent).and_then(place);
        }
        for here in walked {
            if let Some(way) = ways.get_mut(here) {
                *way = Way::Ends;
            }
        }
    }
    circles
}
