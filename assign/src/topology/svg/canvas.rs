//! What is drawn, piece by piece, and how it is written: SVG 1.1 without anything from outside.

use std::fmt::Write;

use super::font::Face;

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: i32,
    /// Top edge.
    pub y: i32,
    /// Width.
    pub w: i32,
    /// Height.
    pub h: i32,
}

impl Rect {
    /// Right edge.
    pub fn right(self) -> i32 {
        self.x + self.w
    }

    /// Bottom edge.
    pub fn bottom(self) -> i32 {
        self.y + self.h
    }

    /// Whether they share any point inside.
    pub fn meets(self, other: Rect) -> bool {
        self.x < other.right()
            && other.x < self.right()
            && self.y < other.bottom()
            && other.y < self.bottom()
    }

    /// Whether `other` is all within.
    pub fn holds(self, other: Rect) -> bool {
        self.x <= other.x
            && self.y <= other.y
            && other.right() <= self.right()
            && other.bottom() <= self.bottom()
    }

    /// The least one that holds both.
    pub fn around(self, other: Rect) -> Rect {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let (right, bottom) = (self.right().max(other.right()), self.bottom().max(other.bottom()));
        Rect { x, y, w: right - x, h: bottom - y }
    }
}

/// A piece of the picture.
#[derive(Debug, Clone)]
pub enum Item {
    /// A rectangle with corners of this radius.
    Rect {
        /// Where.
        at: Rect,
        /// Radius of its corners.
        round: i32,
        /// Names in the style sheet.
        class: &'static str,
    },
    /// A line of text.
    Text {
        /// The room it takes.
        at: Rect,
        /// Its baseline.
        baseline: i32,
        /// Its face.
        face: Face,
        /// Names in the style sheet.
        class: &'static str,
        /// What it says.
        text: String,
    },
    /// A path in SVG's own words, made of numbers only.
    Path {
        /// The path.
        path: String,
        /// Names in the style sheet.
        class: &'static str,
    },
    /// What follows belongs together, and is explained so.
    Begin(String),
    /// The end of that.
    End,
}

/// A picture in the making.
#[derive(Debug, Default)]
pub struct Canvas {
    /// Its pieces, from back to front.
    pub items: Vec<Item>,
}

impl Canvas {
    /// Draws a rectangle.
    pub fn rect(&mut self, at: Rect, round: i32, class: &'static str) {
        self.items.push(Item::Rect { at, round, class });
    }

    /// Draws a path.
    pub fn path(&mut self, path: String, class: &'static str) {
        self.items.push(Item::Path { path, class });
    }

    /// Writes `text` from `x` on, within `room` pixels; returns where it ends.
    pub fn text(
        &mut self,
        (x, baseline): (i32, i32),
        room: i32,
        face: Face,
        class: &'static str,
        text: &str,
    ) -> i32 {
        let text = face.fit(text, room);
        let w = face.width(&text);
        // Ascent and descent of the usual fonts.
        let (up, down) = ((face.size * 4).div_euclid(5), (face.size + 3).div_euclid(4));
        let at = Rect { x, y: baseline - up, w, h: up + down };
        if !text.is_empty() {
            self.items.push(Item::Text { at, baseline, face, class, text });
        }
        x + w
    }

    /// What is drawn until [`Canvas::end`] belongs together.
    pub fn begin(&mut self, title: impl Into<String>) {
        self.items.push(Item::Begin(title.into()));
    }

    /// See [`Canvas::begin`].
    pub fn end(&mut self) {
        self.items.push(Item::End);
    }

    /// The picture as a file of its own.
    pub fn write(&self, (width, height): (i32, i32), title: &str, description: &str) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = write!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" \
             version=\"1.1\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             role=\"img\" aria-labelledby=\"title description\" font-family=\"{FONTS}\">\n\
             <title id=\"title\">{}</title>\n<desc id=\"description\">{}</desc>\n\
             <style type=\"text/css\">{STYLE}</style>\n",
            escape(title),
            escape(description)
        );
        for item in &self.items {
            let _ = match item {
                Item::Rect { at: Rect { x, y, w, h }, round: 0, class } => writeln!(
                    out,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" class=\"{class}\"/>"
                ),
                Item::Rect { at: Rect { x, y, w, h }, round, class } => writeln!(
                    out,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{round}\" \
                     class=\"{class}\"/>"
                ),
                Item::Text { at, baseline, face, class, text } => writeln!(
                    out,
                    "<text x=\"{}\" y=\"{baseline}\" font-size=\"{}\"{} class=\"{class}\">{}</text>",
                    at.x,
                    face.size,
                    if face.bold { " font-weight=\"bold\"" } else { "" },
                    escape(text)
                ),
                Item::Path { path, class } => {
                    writeln!(out, "<path d=\"{path}\" class=\"{class}\"/>")
                }
                Item::Begin(title) => writeln!(out, "<g><title>{}</title>", escape(title)),
                Item::End => writeln!(out, "</g>"),
            };
        }
        out.push_str("</svg>\n");
        out
    }
}

/// Text for XML 1.0, which has no way to write most control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars().take(MOST_CHARACTERS) {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' => escaped.push('\n'),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if crate::cli::output::text::is_printable(c) => escaped.push(c),
            _ => escaped.push('\u{fffd}'),
        }
    }
    escaped
}

/// Bound for one title; what people write is far shorter.
const MOST_CHARACTERS: usize = 2000;

const FONTS: &str =
    "Inter, 'Segoe UI', 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif";

/// Colours that the usual kinds of colour blindness tell apart (Okabe and Ito's), darkened where
/// they are text. Each state has a shape of its own as well.
const STYLE: &str = "
.page{fill:#fff;stroke:#d5dbe3}
.area{fill:#eef2f6}
.bus{fill:none;stroke:#93a1b3;stroke-width:2}
.wire{fill:none;stroke:#93a1b3;stroke-width:1.5}
.group{fill:none;stroke:#9aa7b8;stroke-width:1;stroke-dasharray:3 3}
.shared{fill:#cc79a7;fill-opacity:.10;stroke:#9c4a7c;stroke-width:2}
.port{fill:#fff;stroke:#7b8a9d}
.card{fill:#fff;stroke:#c3ccd7}
.panel{fill:#fff;stroke:#c3ccd7}
.ink{fill:#1b2430}
.soft{fill:#526070}
.plum{fill:#7d3561}
.host{fill:#475569;stroke:#475569;stroke-width:1.5}
.guest{fill:#0072b2;stroke:#0072b2;stroke-width:1.5}
.ready{fill:#d3ecfb;stroke:#2a8fc7;stroke-width:2}
.free{fill:#fff;stroke:#00805d;stroke-width:1.5;stroke-dasharray:3 2}
.blocked{fill:#ffe9bd;stroke:#b06a00;stroke-width:1.5}
.bridge{fill:#fff;stroke:#93a1b3;stroke-width:1.5}
.on-dark{fill:#fff}
.t-host{fill:#38465a}
.t-guest{fill:#005a8d}
.t-ready{fill:#11689a}
.t-free{fill:#006b4e}
.t-blocked{fill:#8a4b00}
.acs{fill:#009e73;stroke:#00694d}
.acs-mark{fill:none;stroke:#fff;stroke-width:1.6}
.no-acs{fill:#fff;stroke:#c24a00;stroke-width:1.6}
.no-acs-mark{fill:none;stroke:#c24a00;stroke-width:1.8}
.t-acs{fill:#00694d}
.t-no-acs{fill:#a83f00}
.strike{fill:none;stroke:#b06a00;stroke-width:1.5}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_text() {
        let mut canvas = Canvas::default();
        canvas.begin("</title><script>alert(1)</script>");
        canvas.text((0, 20), 500, Face::new(12), "ink", "<&\"'>\u{0}\u{202e}\u{ffff}]]>");
        canvas.end();
        let text = canvas.write((100, 100), "a<b", "c&d");
        let document = roxmltree::Document::parse(&text).expect("XML");
        assert!(!document.descendants().any(|node| node.has_tag_name("script")));
        let line = document.descendants().find(|node| node.has_tag_name("text")).expect("a text");
        assert_eq!(line.text(), Some("<&\"'>\u{fffd}\u{fffd}\u{fffd}]]>"));
    }
}
