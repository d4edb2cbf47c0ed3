//! A disk to boot from. The fuzzer calls this, and so does a test of the crate `vmm` with all seeds and
//! the corpus, which is why this file is part of both.

use vmm::image::simulated;

/// The first byte says what the others are: a GRUB script, two versions (a line each), or a disk.
pub fn image(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match kind {
        b'g' => assert!(simulated::script(&text).is_none_or(|entries| entries <= 512)),
        b'v' => {
            let (one, other) = text.split_once('\n').unwrap_or_default();
            simulated::versions(one, other);
        }
        _ => {
            for wanted in [None, Some("no such entry")] {
                if let Ok(found) = simulated::disk(bytes, wanted) {
                    assert!(found.title.len() <= 260 && found.cmdline.len() <= 2 << 20);
                }
            }
        }
    }
}
