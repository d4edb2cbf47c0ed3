//! How much a guest can be asked to give of its memory.

use policies::{Guest, MIN_MEMORY};
use vmm::spec::BALLOON_PAGE;

use crate::failure::{Failure, OwnReason};

/// What a guest that is to keep so many bytes of its memory has to give, in bytes.
///
/// # Errors
/// It has no balloon, less memory than that, or could not run with so little.
pub fn target(guest: &Guest, keep: u64) -> Result<u64, Failure> {
    let size = guest.memory.size;
    if !guest.memory.balloon {
        let message = "has no balloon, so that nothing of its memory can be asked back";
        return Err(Failure::bad_input(OwnReason::NoBalloon, &guest.name, message).with_remedy(
            "Write `memory: {balloon: true}` in its document, and start it again; a guest with devices \
             cannot have one.",
        ));
    }
    let wrong = |message: String| {
        let (least, most) = (MIN_MEMORY >> 20, size >> 20);
        Err(Failure::bad_input(OwnReason::Usage, &guest.name, message)
            .with_remedy(format!("Name what it is to keep: {least}MiB to {most}MiB.")))
    };
    if keep < MIN_MEMORY {
        return wrong(format!("cannot do with {} MiB of memory", keep >> 20));
    }
    let Some(target) = size.checked_sub(keep) else {
        return wrong(format!("has {} MiB of memory, and cannot keep more", size >> 20));
    };
    if !target.is_multiple_of(BALLOON_PAGE) {
        return wrong(format!("{keep} bytes are no whole pages of {BALLOON_PAGE}"));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(memory: &str) -> Guest {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec: {{memory: {memory}, \
             boot: {{kernel: k}}}}\n"
        );
        let source = policies::Source { name: "guest.yaml".to_owned(), text };
        policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}")).guests.remove(0)
    }

    #[test]
    fn a_guest_keeps_what_it_needs_and_no_more_than_it_has() {
        let told = |memory, keep| target(&guest(memory), keep).map_err(|error| error.to_string());
        let memory = "{size: 512MiB, balloon: true}";
        assert_eq!(told(memory, 512 << 20), Ok(0));
        assert_eq!(told(memory, 64 << 20), Ok(448 << 20));
        for (memory, keep, why) in [
            ("{size: 512MiB}", 256 << 20, "web-1: has no balloon"),
            (
                memory,
                (64 << 20) - 1,
                "cannot do with 63 MiB of memory. Name what it is to keep: 64MiB to",
            ),
            (memory, 513 << 20, "has 512 MiB of memory, and cannot keep more"),
            (memory, u64::MAX, "cannot keep more"),
            (memory, (64 << 20) + 1, "no whole pages"),
        ] {
            let refused = told(memory, keep).expect_err(why);
            assert!(refused.contains(why), "{refused}");
        }
    }
}
