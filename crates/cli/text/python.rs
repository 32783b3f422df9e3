//! What chat templates expect of Python: its JSON, its printing, its string methods, its dates.
//!
//! The methods and filters that can make a short string long are bounded here; the template engine bounds repetition
//! itself. Owns the likeness to Python; must never know messages.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::template::Stop;

/// The widest indentation and field that a template may ask for.
const WIDTH_MAX: usize = 256;

/// Adds filters and methods, bound to `bytes_max` bytes for each string that they make.
pub(super) fn install(environment: &mut Environment<'static>, bytes_max: usize) {
    // Templates have no use for these, and a count from the template sets how much they allocate.
    for name in ["batch", "slice", "format"] {
        environment.remove_filter(name);
    }
    environment.set_formatter(print);
    environment.add_filter("tojson", |value: Value, named: Kwargs| tojson(&value, &named));
    environment.add_filter("replace", move |text: Value, from: Value, to: Value| {
        replace(&string(&text), &string(&from), &string(&to), bytes_max)
    });
    environment.add_filter("join", move |items: Value, between: Option<Value>, named: Kwargs| {
        let attribute: Option<String> = named.get("attribute")?;
        named.assert_all_used()?;
        let between = between.map(|between| string(&between)).unwrap_or_default();
        join(&items, &between, attribute.as_deref(), bytes_max)
    });
    environment.add_filter("indent", move |text: Value, rest: Rest<Value>, named: Kwargs| {
        indent(&string(&text), &rest, &named, bytes_max)
    });
    environment.set_unknown_method_callback(move |state, value, method, args| {
        method_call(state, value, method, args, bytes_max)
    });
}

/// A string method, as Python has it.
fn method_call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
    bytes_max: usize,
) -> Result<Value, Error> {
    match (value.as_str(), method, args) {
        (Some(text), "replace", [from, to]) => replace(text, &string(from), &string(to), bytes_max).map(Value::from),
        (Some(text), "replace", [from, to, ..]) => {
            grown(text, &string(from), &string(to), bytes_max)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        (Some(between), "join", [items]) => join(items, between, None, bytes_max).map(Value::from),
        (Some(text), "format", _) if asks_for_width(text) => Err(Stop::too_large(bytes_max)),
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Whether a format string holds a number above [`WIDTH_MAX`], or takes one from its arguments.
fn asks_for_width(format: &str) -> bool {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let nested = format.split("{{").any(|part| part.split('{').any(|field| field.ends_with(':')));
    nested || numbers.into_iter().any(|digits| digits.parse::<usize>().map_or(true, |width| width > WIDTH_MAX))
}

fn string(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Fails where replacing makes a string too long.
fn grown(text: &str, from: &str, to: &str, bytes_max: usize) -> Result<(), Error> {
    let added = text.matches(from).count().saturating_mul(to.len());
    if text.len().saturating_add(added) > bytes_max { Err(Stop::too_large(bytes_max)) } else { Ok(()) }
}

fn replace(text: &str, from: &str, to: &str, bytes_max: usize) -> Result<String, Error> {
    grown(text, from, to, bytes_max)?;
    Ok(text.replace(from, to))
}

fn join(items: &Value, between: &str, attribute: Option<&str>, bytes_max: usize) -> Result<String, Error> {
    let mut joined = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let item = attribute.map_or_else(|| Ok(item.clone()), |name| item.get_attr(name))?;
        let item = string(&item);
        let between = if index == 0 { "" } else { between };
        if joined.len() + between.len() + item.len() > bytes_max {
            return Err(Stop::too_large(bytes_max));
        }
        joined.push_str(between);
        joined.push_str(&item);
    }
    Ok(joined)
}

/// Jinja's `indent(width=4, first=false, blank=false)`.
fn indent(text: &str, positional: &[Value], named: &Kwargs, bytes_max: usize) -> Result<String, Error> {
    let width: Option<usize> = positional.first().map(|width| width.clone().try_into()).transpose()?;
    let width = width.map_or_else(|| named.get::<Option<usize>>("width"), |width| Ok(Some(width)))?.unwrap_or(4);
    let flag = |index: usize, name: &str| match positional.get(index) {
        Some(flag) => Ok::<_, Error>(flag.is_true()),
        None => Ok(named.get::<Option<bool>>(name)?.unwrap_or(false)),
    };
    let (first, blank) = (flag(1, "first")?, flag(2, "blank")?);
    named.assert_all_used()?;
    let lines = text.matches('\n').count() + 1;
    if width > WIDTH_MAX || text.len().saturating_add(lines.saturating_mul(width)) > bytes_max {
        return Err(Stop::too_large(bytes_max));
    }
    let mut indented = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        if (index > 0 || first) && (blank || !line.is_empty()) {
            indented.extend(std::iter::repeat_n(' ', width));
        }
        indented.push_str(line);
    }
    Ok(indented)
}

/// `json.dumps(value, ensure_ascii=False)`, indented where `indent=` says so.
fn tojson(value: &Value, named: &Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = named.get("indent")?;
    // Characters beyond ASCII stay as they are and keys in their order, which is what transformers does by default.
    let _: (Option<Value>, Option<Value>, Option<Value>) =
        (named.get("ensure_ascii")?, named.get("sort_keys")?, named.get("separators")?);
    named.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(WIDTH_MAX));
            value
                .serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, OneLine)),
    };
    let wrong = |why: String| Error::new(ErrorKind::InvalidOperation, why);
    written.map_err(|error| wrong(format!("cannot be written as JSON: {error}")))?;
    String::from_utf8(bytes).map(Value::from_safe_string).map_err(|error| wrong(error.to_string()))
}

/// JSON on one line with Python's spaces after commas and colons.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// Prints a value as Python's `str` does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            representation(value, &mut text);
            out.write_str(&text).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Appends Python's `repr`.
fn representation(value: &Value, into: &mut String) {
    match value.kind() {
        ValueKind::Bool => into.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::None | ValueKind::Undefined => into.push_str("None"),
        ValueKind::String => quoted(&string(value), into),
        ValueKind::Seq => {
            into.push('[');
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                into.push_str(if index == 0 { "" } else { ", " });
                representation(&item, into);
            }
            into.push(']');
        }
        ValueKind::Map => {
            into.push('{');
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                into.push_str(if index == 0 { "" } else { ", " });
                representation(&key, into);
                into.push_str(": ");
                representation(&value.get_item(&key).unwrap_or_default(), into);
            }
            into.push('}');
        }
        _ => into.push_str(&value.to_string()),
    }
}

fn quoted(text: &str, into: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    into.push(quote);
    for character in text.chars() {
        match character {
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            '\\' => into.push_str("\\\\"),
            _ if character == quote => into.extend(['\\', character]),
            _ => into.push(character),
        }
    }
    into.push(quote);
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// `datetime.strftime` of a time in UTC.
pub(super) fn strftime(format: &str, now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day, day_of_year) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[((days + 3) % 7) as usize]; // 1 January 1970 was a Thursday
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut code = characters.next();
        let padded = code != Some('-');
        if !padded {
            code = characters.next();
        }
        let mut number = |value: u64, width: usize| {
            let width = if padded { width } else { 0 };
            // Writing to a string cannot fail.
            let _ = write!(text, "{value:0width$}");
        };
        match code {
            Some('Y') => number(year, 4),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('j') => number(day_of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number((hour + 11) % 12 + 1, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('B') => text.push_str(month_name),
            Some('b' | 'h') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(day_name),
            Some('a') => text.push_str(&day_name[..3]),
            Some('p') => text.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('Z') => text.push_str("UTC"),
            Some('z') => text.push_str("+0000"),
            Some('F') => text.push_str(&strftime("%Y-%m-%d", now)),
            Some('T') => text.push_str(&strftime("%H:%M:%S", now)),
            Some(other) => text.push(other),
            None => text.push('%'),
        }
    }
    text
}

/// Year, month, day and day of the year of a day counted from 1 January 1970, by the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // 400 years are 146,097 days, so whole such cycles need no walk.
    let (mut year, mut rest) = (1970 + 400 * (days / 146_097), days % 146_097);
    while rest >= 365 + u64::from(is_leap(year)) {
        rest -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let day_of_year = rest + 1;
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        for (seconds, format, expected) in [
            (0, "%Y-%m-%d %A %j", "1970-01-01 Thursday 001"),
            (951_782_400, "%d %b %Y", "29 Feb 2000"),
            (1_795_305_599, "%F %T %I%p", "2026-11-21 23:59:59 11PM"),
            (1_795_305_600, "%-d %B %y, %a %%", "22 November 26, Sun %"),
            (4_107_542_399, "%Y-%m-%d", "2100-02-28"),
            (4_107_542_400, "%Y-%m-%d", "2100-03-01"),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime(format, now), expected);
        }
    }

    #[test]
    fn printing_is_pythons() {
        let value = Value::from(minijinja::value::Serde(serde_json::json!({"a": [true, null, 1.5, "it's", "\"'\n"]})));
        let mut text = String::new();
        representation(&value, &mut text);
        assert_eq!(text, r#"{'a': [True, None, 1.5, "it's", '"\'\n']}"#);
    }

    #[test]
    fn wide_fields_are_seen() {
        for (format, wide) in
            [("{}", false), ("{:>8}", false), ("{:>1000000}", true), ("{:{}}", true), ("{{}} {0} {1}", false)]
        {
            assert_eq!(asks_for_width(format), wide, "{format}");
        }
    }
}
