//! Tables: a heading and rows, in the width there is.
//!
//! Where all of it fits, it is shown whole. Where it does not, columns that can be spared are left out,
//! then the one that may be cut short gives what it can give easily, then the others that may be broken
//! over lines, the widest of them first, and at last the first one again.

use std::io;

use anstyle::Style;

use super::{style, text, text_out, width};
use crate::failure::Failure;

/// Room between columns.
const GAP: usize = 2;
/// Least width of a column that is cut short or broken, unless all of it is shorter.
const SHORTEST: usize = 12;

/// A text and how it looks on a terminal.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    /// What stands for it where it does not fit.
    brief: Option<String>,
    style: Style,
}

impl Cell {
    /// A text that looks like this on a terminal.
    pub fn styled(text: impl AsRef<str>, style: Style) -> Cell {
        Cell { text: text::printable(text.as_ref()), brief: None, style }
    }

    /// The same, with what stands for it where it does not fit: that may be cut in turn.
    #[must_use]
    pub fn or_brief(self, brief: impl AsRef<str>) -> Cell {
        Cell { brief: Some(text::printable(brief.as_ref())), ..self }
    }

    /// What is shown of it in so many columns, before it is cut or broken.
    fn text_within(&self, columns: usize) -> &str {
        match &self.brief {
            Some(brief) if text::columns(&self.text) > columns => brief,
            _ => &self.text,
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::styled(text, style::PLAIN)
    }
}

/// A table in the making.
#[derive(Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    whole: Vec<usize>,
    short: Option<usize>,
    spare: Vec<usize>,
    wish: usize,
    least: usize,
    one_line: bool,
    rows: Vec<Row>,
}

/// One row.
#[derive(Debug)]
enum Row {
    /// A cell for each column.
    Cells(Vec<Cell>),
    /// Cells that take the whole width: what the rows below it are about.
    Heading(Vec<Cell>),
}

impl Row {
    fn cell(&self, at: usize) -> Option<&Cell> {
        match self {
            Row::Cells(cells) => cells.get(at),
            Row::Heading(_) => None,
        }
    }
}

impl Table {
    /// A table with these headings. Columns in `whole` are never cut nor broken over lines.
    pub fn new(headings: &[&'static str], whole: &[usize]) -> Table {
        Table {
            headings: headings.to_vec(),
            whole: whole.to_vec(),
            short: None,
            spare: Vec::new(),
            wish: SHORTEST,
            least: SHORTEST,
            one_line: false,
            rows: Vec::new(),
        }
    }

    /// On a terminal, cuts this column short where that keeps each row on one line.
    #[must_use]
    pub fn shorten(self, column: usize) -> Table {
        Table { short: Some(column), ..self }
    }

    /// The column that is cut short keeps at least so many columns.
    #[must_use]
    pub fn least(self, columns: usize) -> Table {
        Table { least: columns, ..self }
    }

    /// The column that is cut short keeps so many columns as long as others can give.
    #[must_use]
    pub fn wish(self, columns: usize) -> Table {
        Table { wish: columns, ..self }
    }

    /// On a terminal, leaves out these columns, the first of them first, where the column that is cut
    /// short would not have what it wishes for.
    #[must_use]
    pub fn spare(self, columns: &[usize]) -> Table {
        Table { spare: columns.to_vec(), ..self }
    }

    /// On a terminal, cuts every column that may be broken instead of breaking it: for rows whose
    /// place below each other means something.
    #[must_use]
    pub fn one_line(self) -> Table {
        Table { one_line: true, ..self }
    }

    /// Adds a row; an empty cell is shown as `-`, so that columns stay columns in a pipe.
    pub fn row<C: Clone + Into<Cell>>(&mut self, cells: &[C]) {
        let filled = |cell: &C| {
            let cell: Cell = cell.clone().into();
            if cell.text.is_empty() { Cell::styled("-", style::FAINT) } else { cell }
        };
        self.rows.push(Row::Cells(cells.iter().map(filled).collect()));
    }

    /// Adds a row that is about those below it: its cells follow each other regardless of columns,
    /// and break over lines at the end of the terminal's.
    pub fn heading(&mut self, cells: &[Cell]) {
        self.rows.push(Row::Heading(cells.to_vec()));
    }

    /// Writes it, with its headings in bold on a terminal. There, a column with nothing in it is
    /// left out, for the others to have its room.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self) -> Result<(), Failure> {
        // In one go: a list may have thousands of lines.
        text_out(&self.lines(width(io::stdout()).map(usize::from)).join("\n"))
    }

    /// Its lines for a terminal of this width; `None` for a pipe.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let says = |cell: &Cell| !matches!(cell.text.trim(), "" | "-");
        let has_any = |at: usize| self.rows.iter().any(|row| row.cell(at).is_some_and(says));
        let mut shown: Vec<usize> = (0..self.headings.len())
            .filter(|at| width.is_none() || self.rows.is_empty() || has_any(*at))
            .collect();
        for spare in &self.spare {
            if width.is_some_and(|width| self.wishes(&shown) > width) {
                shown.retain(|at| at != spare);
            }
        }
        let widths = self.widths(&shown, width);
        let headings: Vec<Cell> =
            self.headings.iter().map(|heading| Cell::styled(heading, style::STRONG)).collect();
        let mut lines = self.row_lines(&headings, &shown, &widths);
        for row in &self.rows {
            lines.extend(match row {
                Row::Cells(cells) => self.row_lines(cells, &shown, &widths),
                Row::Heading(cells) => heading_lines(cells, width),
            });
        }
        lines
    }

    /// Columns for each of the columns shown.
    fn widths(&self, shown: &[usize], width: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = shown.iter().map(|at| self.natural(*at)).collect();
        let Some(limit) = width else { return widths };
        let gaps = GAP * shown.len().saturating_sub(1);
        let excess = |widths: &[usize]| (widths.iter().sum::<usize>() + gaps).saturating_sub(limit);
        let short = shown.iter().position(|at| Some(*at) == self.short);
        let give = |widths: &mut Vec<usize>, least: usize| {
            let over = excess(widths);
            if let Some(column) = short.and_then(|short| widths.get_mut(short)) {
                *column = column.saturating_sub(over).max(least.min(*column));
            }
        };
        give(&mut widths, self.wish.max(self.least));
        while excess(&widths) > 0 {
            let gives = |(at, columns): &(usize, &mut usize)| {
                let column = shown.get(*at);
                **columns > SHORTEST
                    && column.is_some_and(|column| !self.whole.contains(column))
                    && column != self.short.as_ref()
            };
            let widest = widths.iter_mut().enumerate().filter(gives);
            match widest.max_by_key(|(_, columns)| **columns) {
                Some((_, columns)) => *columns -= 1,
                None => break,
            }
        }
        give(&mut widths, self.least);
        widths
    }

    /// Columns that all of these take, the one that is cut short as many as it wishes for.
    fn wishes(&self, shown: &[usize]) -> usize {
        let wish = |at: &usize| match self.natural(*at) {
            natural if Some(*at) == self.short => natural.min(self.wish),
            natural => natural,
        };
        shown.iter().map(wish).sum::<usize>() + GAP * shown.len().saturating_sub(1)
    }

    /// Columns that the whole of a column takes.
    fn natural(&self, at: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.cell(at)).map(|cell| cell.text.as_str());
        let all = cells.chain(self.headings.get(at).copied());
        all.map(text::columns).max().unwrap_or(0)
    }

    fn row_lines(&self, row: &[Cell], shown: &[usize], widths: &[usize]) -> Vec<String> {
        let nothing = Cell::default();
        let columns: Vec<(Vec<String>, Style, usize)> = shown
            .iter()
            .zip(widths)
            .map(|(at, width)| {
                let cell = row.get(*at).unwrap_or(&nothing);
                let breaks = !self.one_line && Some(*at) != self.short && !self.whole.contains(at);
                let shown = cell.text_within(*width);
                let lines = match () {
                    _ if text::columns(shown) <= *width => vec![shown.to_owned()],
                    _ if breaks => text::wrap(shown, *width),
                    _ => vec![text::cut(shown, *width)],
                };
                (lines, cell.style, *width)
            })
            .collect();
        let height = columns.iter().map(|(lines, ..)| lines.len()).max().unwrap_or(1);
        (0..height).map(|at| line(&columns, at)).collect()
    }
}

/// The first cell, and the second beside it in as many lines as it takes.
fn heading_lines(cells: &[Cell], width: Option<usize>) -> Vec<String> {
    let Some((first, rest)) = cells.split_first() else { return Vec::new() };
    let indent = text::columns(&first.text) + GAP;
    let mut columns = vec![(vec![first.text.clone()], first.style, indent - GAP)];
    for cell in rest {
        let limit = width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(SHORTEST));
        columns.push((text::wrap(&cell.text, limit), cell.style, 0));
    }
    let height = columns.iter().map(|(lines, ..)| lines.len()).max().unwrap_or(1);
    (0..height).map(|at| line(&columns, at)).collect()
}

/// One line of a row. Nothing follows its last word: what is to be copied has no blanks at its end.
fn line(columns: &[(Vec<String>, Style, usize)], at: usize) -> String {
    let mut line = String::new();
    let mut blanks = 0;
    for (lines, style, width) in columns {
        let cell = lines.get(at).map_or("", String::as_str);
        if !cell.trim().is_empty() {
            line.push_str(&" ".repeat(blanks));
            blanks = 0;
            line.push_str(&format!("{style}{cell}{style:#}"));
        }
        blanks += width.saturating_sub(text::columns(cell)) + GAP;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &Table, width: Option<usize>) -> Vec<String> {
        let lines = table.lines(width);
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    fn devices() -> Table {
        let mut table = Table::new(&["ADDRESS", "NAME", "VFS", "IN USE BY"], &[0, 2]).shorten(1);
        let chain = "eth0 → bond0 → vlan100 → br0 → default route";
        table.row(&["0000:01:00.0", "Intel 82576 Gigabit Network Connection", "", chain]);
        table.row(&["0000:01:10.0", "装置", "", ""]);
        table
    }

    #[test]
    fn a_pipe_gets_whole_rows_and_all_columns() {
        let lines = plain(&devices(), None);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], "0000:01:10.0  装置                                    -    -");
        assert!(
            lines[1].ends_with("Connection  -    eth0 → bond0 → vlan100 → br0 → default route")
        );
    }

    #[test]
    fn what_is_short_gives_first_and_long_cells_break() {
        assert_eq!(
            plain(&devices(), Some(80)),
            [
                "ADDRESS       NAME                  IN USE BY",
                "0000:01:00.0  Intel 82576 Gigabit…  eth0 → bond0 → vlan100 → br0 → default route",
                "0000:01:10.0  装置                  -",
            ]
        );
        assert_eq!(
            plain(&devices(), Some(50)),
            [
                "ADDRESS       NAME          IN USE BY",
                "0000:01:00.0  Intel 82576…  eth0 → bond0 → vlan100",
                "                            → br0 → default route",
                "0000:01:10.0  装置          -",
            ]
        );
    }

    #[test]
    fn a_wide_terminal_shows_all_of_it() {
        let lines = plain(&devices(), Some(200));
        assert!(lines[1].contains("Network Connection  eth0 → bond0 → vlan100 → br0"), "{lines:?}");
    }

    #[test]
    fn a_tree_keeps_its_rows_on_one_line() {
        let lines = plain(&devices().one_line(), Some(60));
        assert_eq!(lines[1], "0000:01:00.0  Intel 82576…  eth0 → … → default route");
        assert_eq!(lines.len(), 3);
    }

    /// What it takes from others is no more than it wishes for, and they keep what can be read.
    #[test]
    fn a_name_keeps_some_of_its_letters_while_others_can_give() {
        let wide = devices().one_line().wish(24);
        assert_eq!(
            plain(&wide, Some(60))[1],
            "0000:01:00.0  Intel 82576 Gigabit Net…  eth0 → bond0 → vlan…"
        );
        // Others have no more to give: then it does.
        assert_eq!(plain(&wide, Some(44))[1], "0000:01:00.0  Intel 82576 Gig…  eth0 → bond…");
    }

    #[test]
    fn a_column_that_can_be_spared_goes_before_the_name() {
        let mut table =
            Table::new(&["ADDRESS", "NAME", "CLASS"], &[0, 2]).shorten(1).wish(20).spare(&[2]);
        table.row(&["0000:01:00.0", "Intel 82576 Gigabit", "ethernet"]);
        assert_eq!(plain(&table, Some(43))[0], "ADDRESS       NAME                 CLASS");
        assert_eq!(plain(&table, Some(42))[0], "ADDRESS       NAME");
        assert_eq!(plain(&table, None)[0], "ADDRESS       NAME                 CLASS");
    }

    #[test]
    fn what_does_not_fit_is_told_briefly_before_it_is_cut() {
        let mut table = Table::new(&["NAME"], &[]).shorten(0);
        table.row(&[Cell::from("Intel Cannon Lake PCH").or_brief("Cannon Lake PCH")]);
        assert_eq!(plain(&table, Some(21))[1], "Intel Cannon Lake PCH");
        assert_eq!(plain(&table, Some(20))[1], "Cannon Lake PCH");
        assert_eq!(plain(&table, Some(12))[1], "Cannon Lake…");
    }

    #[test]
    fn colour_takes_no_room_and_devices_cannot_bring_their_own() {
        let mut table = Table::new(&["A", "B"], &[0, 1]);
        table.row(&[Cell::styled("\u{1b}[31mred", style::GOOD), Cell::from("b")]);
        let lines = table.lines(Some(80));
        assert!(lines[1].starts_with("\u{1b}[32m\u{fffd}[31mred\u{1b}[0m  "), "{lines:?}");
        assert_eq!(plain(&table, Some(80)), ["A         B", "\u{fffd}[31mred  b"]);
    }
}
