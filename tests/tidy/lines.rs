//! Takes a Rust file apart into code, comments and strings, line by line, and knows which lines only tests see.
//!
//! A scanner, not a parser: it knows literals, comments, braces and attributes, which is all that style needs. Strings are
//! blanked in [`Line::code`], so that a word in a message is never taken for code, and a brace in one never counted.

/// One line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Code, with comments left out and the insides of literals removed.
    pub code: String,
    /// Text of comments on this line, with their `//`, `///` or `//!`.
    pub comment: String,
    /// Insides of string literals on this line.
    pub strings: String,
    /// Whether only tests compile it.
    pub test: bool,
}

/// A file, taken apart.
pub struct Source {
    /// Its lines; the first is line 1.
    pub lines: Vec<Line>,
}

/// A function: where it is, and how long.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// Line of its `fn`, from 1.
    pub line: usize,
    /// Lines from its `fn` to its closing brace.
    pub length: usize,
    pub test: bool,
}

/// Where the scanner stands.
enum Inside {
    Code,
    LineComment,
    /// How deep.
    BlockComment(u32),
    String,
    /// How many `#` close it.
    RawString(usize),
}

impl Source {
    /// Takes a file apart.
    pub fn parse(text: &str) -> Self {
        let mut lines = scan(text);
        mark_tests(&mut lines);
        Self { lines }
    }

    /// Lines that are not only for tests, with their numbers from 1.
    pub fn product(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().filter(|(_, line)| !line.test).map(|(index, line)| (index + 1, line))
    }

    /// All functions with a body.
    pub fn functions(&self) -> Vec<Function> {
        let code: Vec<(usize, char)> = characters(&self.lines).collect();
        let mut found = Vec::new();
        for start in 0..code.len() {
            let Some(name) = function_name(&code, start) else { continue };
            let Some(end) = body_end(&code, start) else { continue };
            let (first, last) = (code[start].0, code[end].0);
            let test = self.lines[first].test;
            found.push(Function { name, line: first + 1, length: last - first + 1, test });
        }
        found
    }
}

fn scan(text: &str) -> Vec<Line> {
    let mut lines = vec![Line::default()];
    let mut inside = Inside::Code;
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        if c == '\n' {
            if matches!(inside, Inside::LineComment) {
                inside = Inside::Code;
            }
            lines.push(Line::default());
            at += 1;
            continue;
        }
        let line = lines.last_mut().unwrap();
        let next = chars.get(at + 1).copied().unwrap_or('\n');
        match inside {
            Inside::Code => at += step_code(&chars, at, line, &mut inside),
            Inside::LineComment => {
                line.comment.push(c);
                at += 1;
            }
            Inside::BlockComment(depth) => {
                line.comment.push(c);
                at += 1;
                if (c, next) == ('*', '/') {
                    line.comment.push('/');
                    at += 1;
                    inside = if depth == 1 { Inside::Code } else { Inside::BlockComment(depth - 1) };
                } else if (c, next) == ('/', '*') {
                    line.comment.push('*');
                    at += 1;
                    inside = Inside::BlockComment(depth + 1);
                }
            }
            Inside::String => {
                if c == '"' {
                    line.code.push('"');
                    inside = Inside::Code;
                } else {
                    line.strings.push(c);
                }
                // An escaped newline still begins a new line.
                if c == '\\' && next != '\n' {
                    line.strings.push(next);
                    at += 1;
                }
                at += 1;
            }
            Inside::RawString(hashes) => {
                if c == '"' && chars[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes {
                    line.code.push('"');
                    at += hashes;
                    inside = Inside::Code;
                } else {
                    line.strings.push(c);
                }
                at += 1;
            }
        }
    }
    if lines.last().is_some_and(|line| *line == Line::default()) {
        lines.pop();
    }
    lines
}

/// One step in code; gives how many characters it took.
fn step_code(chars: &[char], at: usize, line: &mut Line, inside: &mut Inside) -> usize {
    let c = chars[at];
    let next = chars.get(at + 1).copied().unwrap_or('\n');
    if (c, next) == ('/', '/') {
        line.comment.push_str("//");
        *inside = Inside::LineComment;
        return 2;
    }
    if (c, next) == ('/', '*') {
        line.comment.push_str("/*");
        *inside = Inside::BlockComment(1);
        return 2;
    }
    let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    if c == 'r' && (!after_word || matches!(chars[at - 1], 'b' | 'c')) {
        let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
        if chars.get(at + 1 + hashes) == Some(&'"') {
            line.code.push_str("r\"");
            *inside = Inside::RawString(hashes);
            return hashes + 2;
        }
    }
    if c == '"' {
        line.code.push('"');
        *inside = Inside::String;
        return 1;
    }
    if c == '\'' {
        // A character literal closes within a few characters; a lifetime does not.
        let literal = match next {
            '\\' => chars[at + 2..].iter().skip(1).take(12).position(|&c| c == '\'').map(|n| n + 4),
            _ => (chars.get(at + 2) == Some(&'\'')).then_some(3),
        };
        if let Some(length) = literal {
            line.code.push_str("''");
            return length;
        }
    }
    line.code.push(c);
    1
}

/// All characters of code with the index of their line; a line ends with a newline.
fn characters(lines: &[Line]) -> impl Iterator<Item = (usize, char)> {
    lines
        .iter()
        .enumerate()
        .flat_map(|(index, line)| line.code.chars().chain(std::iter::once('\n')).map(move |c| (index, c)))
}

/// Marks what stands under `#[cfg(test)]`, the attribute included.
fn mark_tests(lines: &mut [Line]) {
    let code: Vec<(usize, char)> = characters(lines).collect();
    let starts: Vec<usize> = (0..code.len())
        .filter(|&at| starts_with(&code, at, "#[cfg(test)]") || starts_with(&code, at, "#[cfg(all(test"))
        .collect();
    for start in starts {
        let last = item_end(&code, start).map_or(lines.len() - 1, |end| code[end].0);
        for line in &mut lines[code[start].0..=last] {
            line.test = true;
        }
    }
    if starts_with(&code, 0, "#![cfg(test)]") {
        lines.iter_mut().for_each(|line| line.test = true);
    }
}

fn starts_with(code: &[(usize, char)], at: usize, word: &str) -> bool {
    word.chars().enumerate().all(|(i, c)| code.get(at + i).is_some_and(|&(_, found)| found == c))
}

/// The index of the end of the item that begins with an attribute at `start`: its closing brace, or its semicolon.
fn item_end(code: &[(usize, char)], start: usize) -> Option<usize> {
    let mut depth = 0i32;
    for (at, &(_, c)) in code.iter().enumerate().skip(start) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            ';' | ',' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// The name of the function whose `fn` stands at `at`.
fn function_name(code: &[(usize, char)], at: usize) -> Option<String> {
    let boundary = at == 0 || !(code[at - 1].1.is_alphanumeric() || code[at - 1].1 == '_');
    if !boundary || !starts_with(code, at, "fn ") {
        return None;
    }
    let name: String = code[at + 3..]
        .iter()
        .map(|&(_, c)| c)
        .skip_while(|c| c.is_whitespace())
        .take_while(|&c| c.is_alphanumeric() || c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// The index of the closing brace of the function at `at`; nothing if it has no body.
fn body_end(code: &[(usize, char)], at: usize) -> Option<usize> {
    let mut depth = 0i32;
    let mut body = false;
    for (end, &(_, c)) in code.iter().enumerate().skip(at) {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' => {
                body |= depth == 0;
                depth += 1;
            }
            '}' => {
                depth -= 1;
                if depth == 0 && body {
                    return Some(end);
                }
            }
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Line {
        Source::parse(text).lines.remove(0)
    }

    #[test]
    fn comments_strings_and_code_are_told_apart() {
        let line = one(r#"let url = "http://x"; // not "code" "#);
        assert_eq!(line.code, "let url = \"\"; ");
        assert_eq!(line.strings, "http://x");
        assert_eq!(line.comment, "// not \"code\" ");
    }

    #[test]
    fn quotes_inside_literals_do_not_open_another() {
        assert_eq!(one(r#"a("say \"{\"", '"', b'\'', "x")"#).code, r#"a("", '', b'', "")"#);
        assert_eq!(one(r##"a(r#"he said "{" "#, br"\")"##).code, r#"a(r"", br"")"#);
        assert_eq!(one("fn a<'a>(x: &'a str, y: char) { y == 'x' }").code, "fn a<'a>(x: &'a str, y: char) { y == '' }");
        assert_eq!(one(r"let x = ['\u{7f}', '\n'];").code, "let x = ['', ''];");
    }

    #[test]
    fn block_comments_nest_and_span_lines() {
        let source = Source::parse("a /* one /* two\n still */ yes */ b");
        assert_eq!(source.lines[0].code, "a ");
        assert_eq!(source.lines[1].code, " b");
        assert_eq!(source.lines[1].comment, " still */ yes */");
    }

    #[test]
    fn a_string_may_span_lines() {
        let source = Source::parse("let a = \"one {\n two // no comment\";\nlet b;");
        assert_eq!(source.lines[1].code, "\";");
        assert_eq!(source.lines[1].strings, " two // no comment");
        assert_eq!(source.lines[2].code, "let b;");
    }

    #[test]
    fn test_modules_and_single_test_items_are_left_out_of_the_product() {
        let source = Source::parse(
            "fn a() {}\n#[cfg(test)]\nuse x::y;\nfn b() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n fn c() { \"}\"; }\n}\nfn d() {}",
        );
        let product: Vec<usize> = source.product().map(|(number, _)| number).collect();
        assert_eq!(product, [1, 4, 10]);
    }

    #[test]
    fn functions_are_measured_from_their_fn_to_their_closing_brace() {
        let text = "impl A {\n    pub(crate) async fn one<const N: usize>(\n        x: [u8; 3],\n    ) -> B\n    where\n        C: D,\n    {\n        loop {}\n    }\n\n    fn no_body(&self);\n}\nfn two() {}\n";
        let found = Source::parse(text).functions();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].name.as_str(), found[0].line, found[0].length), ("one", 2, 8));
        assert_eq!((found[1].name.as_str(), found[1].line, found[1].length), ("two", 13, 1));
    }

    #[test]
    fn a_type_that_is_a_function_is_no_function() {
        assert!(Source::parse("struct A { call: fn(u8) -> u8, each: Box<dyn Fn()> }").functions().is_empty());
    }
}
