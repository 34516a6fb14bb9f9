//! Fingerprints under statements that nobody would write by hand.

use proptest::prelude::*;
use tollgate::timing::fingerprint;

/// What must never be seen. Not a number, not a keyword, and no piece of any template.
const SECRET: &str = "zqsecretqz";

/// A value that holds the secret, as some dialect writes it.
fn value() -> impl Strategy<Value = String> {
    let noise = "[a-z ,;()=*/#$?:@.\u{e9}-]{0,12}";
    (0..8_usize, noise, noise).prop_map(|(form, before, after)| {
        let text = format!("{before}{SECRET}{after}");
        match form {
            0 => format!("'{text}'"),
            1 => format!("'it''s {text}'"),
            2 => format!("E'it\\'s {text}'"),
            3 => format!("$tag${text}$tag$"),
            4 => format!("$${}$$", text.replace('$', "")),
            5 => format!("N'{text}'"),
            6 => format!(" /* {} */ 1", text.replace('*', "")),
            _ => format!("7 -- {text}\n"),
        }
    })
}

/// Words that a statement is made of, each with a blank around it.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,5}".prop_map(|word| format!(" {word} ")),
        prop::sample::select(vec![
            " SELECT ",
            " from ",
            " WHERE ",
            " in (",
            ")",
            ",",
            " = ",
            " IS ",
            " NULL ",
            " VALUES (",
            " AND ",
            "; ",
            "::text",
            " - ",
            " -1 ",
            " \"name\" ",
            " `name` ",
            " t.\"c\" ",
            " 1.5e-7 ",
            " $1 ",
            " ? ",
            " :x ",
            " || ",
            " ->> ",
            " #> ",
            "[",
            "]",
            " INSERT INTO t (",
            " COUNT(*) ",
            " TRIM(LEADING ",
            " DISTINCT ",
            " VALUES ",
            " ROW(",
            " ARRAY[",
            " CASE ",
            " WHEN ",
            " OR ",
            " UNION ALL ",
            " SET ",
            " CHARACTER ",
            " AS ",
            " CREATE ",
            " FROM TRIM(\"zqsecretqz\") ",
            " /*! 1 */ ",
            "; SAVEPOINT ",
            "; USE ",
        ])
        .prop_map(str::to_owned),
        value(),
    ]
}

/// An expression without names that differ from row to row.
fn expression() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "1",
        "-1.5",
        "'x'",
        "$1",
        "$1::int",
        "CAST($1 AS text)",
        "DEFAULT",
        "NULL",
        "now()",
        "lower('x')",
        "(1 + 2)",
        "DATE '2024-01-01'",
        "ARRAY[1, 2]",
        "(SELECT max(a) FROM u WHERE b IN (1, 2))",
        "E'\\''",
        "TRUE",
    ])
    .prop_map(str::to_owned)
}

fn statement() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_value_is_ever_seen(sql in statement()) {
        let print = fingerprint(&sql);
        prop_assert!(!print.contains(SECRET), "{sql}\n{print}");
    }

    #[test]
    fn values_alone_make_no_difference(pieces in prop::collection::vec(piece(), 0..20), a in value(), b in value()) {
        let with = |value: &str| fingerprint(&format!("{} = {value} AND x", pieces.concat()));
        prop_assert_eq!(with(&a), with(&b));
    }

    #[test]
    fn any_text_has_one_and_it_is_bounded(text in "\\PC{0,200}", times in 1..200_usize) {
        prop_assert!(fingerprint(&text.repeat(times)).len() <= 2_048);
    }

    #[test]
    fn any_bytes_that_are_text(bytes in prop::collection::vec(prop::sample::select(b"'\"`\\$-/*#;?:@.,()[]ae1 \n\xc3\xa9".to_vec()), 0..64)) {
        let print = fingerprint(&String::from_utf8_lossy(&bytes));
        prop_assert!(print.len() <= 2_048);
    }

    #[test]
    fn white_space_and_the_case_of_keywords_make_no_difference(words in prop::collection::vec("[a-z]{3}", 1..6)) {
        let columns = words.join(", ");
        let one = fingerprint(&format!("select {columns} from t where a=1 and b in (1,2)"));
        let other = fingerprint(&format!("SELECT\t{}\nFROM t -- all\n WHERE a = 22\r\n AND b IN ( 7 )", columns.replace(", ", ",")));
        prop_assert_eq!(one, other);
    }

    /// One row or many, of whatever expressions: the statement is the same.
    #[test]
    fn the_number_of_fingerprints_does_not_grow_with_the_data(
        rows in prop::collection::vec(prop::collection::vec(expression(), 2), 1..40),
        list in prop::collection::vec(expression(), 1..40),
    ) {
        let row = |row: &Vec<String>| format!("({})", row.join(", "));
        let all: Vec<String> = rows.iter().map(row).collect();
        let arms = |n: usize| " WHEN $1 THEN $2::int".repeat(n);
        let alternatives = |n: usize| vec!["(a = 1 AND b = $2)"; n].join(" OR ");
        for (one, many) in [
            (format!("INSERT INTO t(a, b) VALUES {}", all[0]), format!("INSERT INTO t(a, b) VALUES {}", all.join(", "))),
            ("SELECT a FROM t WHERE b IN (1) AND c".to_owned(), format!("SELECT a FROM t WHERE b IN ({}) AND c", list.join(", "))),
            ("SELECT ARRAY[1] FROM t".to_owned(), format!("SELECT ARRAY[{}] FROM t", list.join(", "))),
            (format!("SELECT CASE x{} END", arms(1)), format!("SELECT CASE x{} END", arms(list.len()))),
            (format!("SELECT a WHERE {}", alternatives(1)), format!("SELECT a WHERE {}", alternatives(list.len()))),
        ] {
            prop_assert_eq!(fingerprint(&one), fingerprint(&many), "{}", many);
        }
    }

    /// MySQL's text in double quotes, standing where a value stands.
    #[test]
    fn text_in_double_quotes_is_a_value(operator in prop::sample::select(vec!["=", "<>", "LIKE", "IN (", "||", ","])) {
        let print = fingerprint(&format!("SELECT a FROM t WHERE b {operator} \"{SECRET}\""));
        prop_assert!(!print.contains(SECRET), "{print}");
    }
}

#[test]
fn a_megabyte_of_the_worst_is_read_once() {
    for piece in ["'", "\"", "$a", "$a$", "/*", "--", "(", ";", "?, ", "\\", "1e+", "a.", "'a\\'", "(?), ", "::", "é"]
    {
        let sql = piece.repeat(1 << 20);
        assert!(fingerprint(&sql).len() <= 2_048, "{piece}");
    }
    let list = (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    assert_eq!(fingerprint(&format!("DELETE FROM t WHERE id IN ({list})")), "DELETE FROM t WHERE id IN (?)");
    serde_json::to_string(&fingerprint("SELECT '\u{1}'")).expect("no control characters");
}
