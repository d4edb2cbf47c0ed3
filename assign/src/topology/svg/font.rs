//! How wide a text is. A picture that is written here is drawn elsewhere, in whatever sans-serif
//! font is there: widths are those of DejaVu Sans, the widest of the usual ones, so that what fits
//! by it fits by the others.

use crate::cli::output::text;

/// Advance widths of the characters from space to tilde, in thousandths of the font's size.
const REGULAR: [u16; 95] = [
    318, 401, 460, 838, 637, 951, 780, 275, 391, 391, 500, 838, 318, 361, 318, 337, 637, 637, 637,
    637, 637, 637, 637, 637, 637, 637, 337, 337, 838, 838, 838, 531, 1000, 685, 687, 699, 771, 632,
    576, 775, 752, 295, 295, 656, 558, 863, 749, 788, 604, 788, 695, 635, 611, 732, 685, 989, 686,
    611, 686, 391, 337, 391, 838, 500, 500, 613, 635, 550, 635, 616, 353, 635, 634, 278, 278, 580,
    278, 975, 634, 612, 635, 635, 412, 521, 393, 634, 592, 818, 592, 592, 525, 637, 337, 637, 838,
];
/// The same of the bold face.
const BOLD: [u16; 95] = [
    349, 457, 521, 838, 696, 1002, 873, 307, 458, 458, 523, 838, 380, 416, 380, 366, 696, 696, 696,
    696, 696, 696, 696, 696, 696, 696, 400, 400, 838, 838, 838, 581, 1000, 774, 763, 734, 831, 684,
    684, 821, 837, 373, 373, 775, 638, 996, 837, 851, 733, 851, 771, 721, 683, 813, 774, 1104, 771,
    725, 726, 458, 366, 458, 838, 500, 500, 675, 716, 593, 716, 679, 436, 716, 712, 343, 343, 666,
    343, 1042, 712, 688, 716, 716, 494, 596, 479, 712, 652, 924, 646, 652, 583, 712, 366, 712, 838,
];
/// Any other character: none that fonts have is much wider than this, where it is no wide one.
const OTHER: u32 = 1100;
/// A wide character, as of Chinese.
const WIDE: u32 = 1600;

/// A size, and whether it is bold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Face {
    /// In pixels.
    pub size: i32,
    /// Whether it is bold.
    pub bold: bool,
}

impl Face {
    /// A face of this size.
    pub const fn new(size: i32) -> Face {
        Face { size, bold: false }
    }

    /// The same in bold.
    pub const fn bold(size: i32) -> Face {
        Face { size, bold: true }
    }

    /// Pixels that `text` is wide, rounded up.
    pub fn width(self, text: &str) -> i32 {
        let thousandths: u32 = text.chars().map(|c| self.advance(c)).sum();
        let size = u32::try_from(self.size).unwrap_or(0);
        i32::try_from(thousandths.saturating_mul(size).div_ceil(1000)).unwrap_or(i32::MAX)
    }

    fn advance(self, c: char) -> u32 {
        let table = if self.bold { &BOLD } else { &REGULAR };
        let at = u32::from(c).checked_sub(0x20).and_then(|at| usize::try_from(at).ok());
        match at.and_then(|at| table.get(at)) {
            Some(width) => u32::from(*width),
            None if text::columns(c.encode_utf8(&mut [0; 4])) > 1 => WIDE,
            None => OTHER,
        }
    }

    /// `text` within this many pixels, with an ellipsis where something is left out. What a reader
    /// could not tell from an attack on the line, such as piles of marks, is bounded by its count.
    pub fn fit(self, text: &str, width: i32) -> String {
        let clean: String = text::printable(text).chars().take(MOST_CHARACTERS).collect();
        if self.width(&clean) <= width {
            return clean;
        }
        let mut kept = clean;
        while !kept.is_empty() && self.width(&kept) + self.width("…") > width {
            kept.pop();
        }
        format!("{}…", kept.trim_end())
    }
}

/// Far more than fits anywhere in a picture.
const MOST_CHARACTERS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_whole_and_what_does_not_is_cut() {
        let face = Face::new(12);
        assert_eq!(face.width("0000:01:00.0"), 81);
        assert!(Face::bold(12).width("igb") > face.width("igb"));
        assert_eq!(face.fit("igb", 40), "igb");
        let name = "Intel 82576 Gigabit Network Connection";
        for width in [0, 20, 60, 100, 200] {
            let fitted = face.fit(name, width);
            assert!(fitted == "…" || face.width(&fitted) <= width, "{fitted:?} in {width}");
        }
        assert_eq!(face.fit("a\u{202e}b\u{1b}", 100), "a\u{fffd}b\u{fffd}");
        assert!(face.fit(&"\u{300}".repeat(100_000), 500).chars().count() < 100);
    }
}
