//! GRUB's `test`, which is also called `[`.

/// Whether what the words say is so. Nothing says nothing, and is not so. `exists` tells which files
/// there are.
pub fn holds(words: &[String], exists: &dyn Fn(&str) -> bool) -> bool {
    // `-o` binds less tightly than `-a`, and neither nests without parentheses, which nobody writes.
    words
        .split(|word| word == "-o")
        .any(|all| all.split(|word| word == "-a").all(|one| is_so(one, exists)))
}

fn is_so(words: &[String], exists: &dyn Fn(&str) -> bool) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // As many as there are come to one or none.
    let negations = words.iter().take_while(|word| **word == "!").count();
    let found = match words[negations..] {
        [] => false,
        [text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        ["-n", text] => !text.is_empty(),
        ["-e" | "-f" | "-s", path] => exists(path),
        [one, "=" | "==", other] => one == other,
        [one, "!=", other] => one != other,
        [one, operator, other] => {
            let number = |text: &str| text.parse::<i64>().unwrap_or_default();
            let (one, other) = (number(one), number(other));
            match operator {
                "-eq" => one == other,
                "-ne" => one != other,
                "-lt" => one < other,
                "-le" => one <= other,
                "-gt" => one > other,
                "-ge" => one >= other,
                _ => false,
            }
        }
        _ => false,
    };
    found != (negations % 2 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_as_grub_has_them() {
        let says = |text: &str| {
            let words: Vec<String> = text.split(' ').map(|word| word.replace("''", "")).collect();
            holds(&words, &|path| path == "/there")
        };
        for right in [
            "a",
            "-n a",
            "-z ''",
            "a = a",
            "a != b",
            "! ''",
            "! a = b",
            "2 -gt 1",
            "-f /there",
            "'' -o a",
            "a -a b",
            "! ! a",
        ] {
            assert!(says(right), "{right}");
        }
        for wrong in
            ["''", "-z a", "a = b", "! a", "1 -ge 2", "-e /not", "a -a ''", "a b c d e", "a ? b"]
        {
            assert!(!says(wrong), "{wrong}");
        }
        assert!(!holds(&[], &|_| true));
    }
}
