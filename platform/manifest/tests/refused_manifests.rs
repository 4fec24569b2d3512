//! What a user sees when a manifest is wrong: one snapshot per kind of mistake.

use holm_manifest::Manifest;

const HEAD: &str = "schema = 1\napp = \"hello\"\n";
const WEB: &str = "schema = 1\napp = \"hello\"\n\n[process.web]\n";

fn refused(text: &str) -> String {
    Manifest::parse(text, "holm.toml").expect_err("the manifest should be refused").render(false)
}

#[test]
fn mistakes_are_shown_with_place_and_expectation() {
    let table: &[(&str, String)] = &[
        ("not toml", format!("{HEAD}image = \n")),
        ("unclosed text", format!("{HEAD}image = \"hello\n")),
        ("duplicate key", format!("{HEAD}app = \"again\"\n")),
        ("empty file", String::new()),
        ("wrong schema", "schema = 2\napp = \"hello\"\n[process.web]\n".to_owned()),
        ("bad app name", "schema = 1\napp = \"Hello\"\n[process.web]\n".to_owned()),
        ("unknown top field", format!("{HEAD}imgae = \"hello:1\"\n[process.web]\n")),
        ("unknown process field", format!("{WEB}instnaces = 2\n")),
        ("unknown field far from any", format!("{WEB}replicas = 2\n")),
        ("wrong kind", format!("{WEB}instances = \"2\"\n")),
        ("count out of range", format!("{WEB}instances = 101\n")),
        ("cpu out of range", format!("{WEB}cpu = 0.01\n")),
        ("memory unit", format!("{WEB}memory = \"128MB\"\n")),
        ("memory out of range", format!("{WEB}memory = \"8MiB\"\n")),
        ("command as text", format!("{WEB}command = \"hello --port 8080\"\n")),
        ("number in command", format!("{WEB}command = [\"hello\", 8080]\n")),
        ("empty command", format!("{WEB}command = []\n")),
        ("no probe", format!("{WEB}[process.web.health]\ninterval = \"2s\"\n")),
        ("two probes", format!("{WEB}[process.web.health]\ntcp = {{ port = 1 }}\nexec = [\"true\"]\n")),
        ("probe without port", format!("{WEB}[process.web.health]\nhttp = {{ path = \"/\" }}\n")),
        ("relative path", format!("{WEB}[process.web.health]\nhttp = {{ port = 80, path = \"healthz\" }}\n")),
        ("bad duration", format!("{WEB}[process.web.stop]\ngrace = \"10 seconds\"\n")),
        ("duration out of range", format!("{WEB}[process.web.stop]\ngrace = \"2h\"\n")),
        ("short signal", format!("{WEB}[process.web.stop]\nsignal = \"TERM\"\n")),
        ("unknown strategy", format!("{WEB}[deploy]\nstrategy = \"canary\"\n")),
        ("unknown restart policy", format!("{WEB}restart = \"on-failur\"\n")),
        ("release without command", format!("{WEB}[release]\ntimeout = \"1m\"\n")),
        ("release beside a process of its name", format!("{WEB}[process.release]\n[release]\ncommand = [\"x\"]\n")),
        ("route to nowhere", format!("{WEB}[[route]]\nprocess = \"wbe\"\nport = 80\nlisten = 80\n")),
        ("route without match", format!("{WEB}[[route]]\nprocess = \"web\"\nport = 80\n")),
        (
            "route with both",
            format!("{WEB}[[route]]\nprocess = \"web\"\nport = 80\nlisten = 80\nsni = \"a.example\"\n"),
        ),
        ("upper-case host name", format!("{WEB}[[route]]\nprocess = \"web\"\nport = 80\nsni = \"A.example\"\n")),
        (
            "same port twice",
            format!(
                "{WEB}[[route]]\nprocess = \"web\"\nport = 80\nlisten = 8080\n\n[[route]]\nprocess = \"web\"\nport = 81\nlisten = 8080\n"
            ),
        ),
        (
            "PROXY protocol as text",
            format!("{WEB}[[route]]\nprocess = \"web\"\nport = 80\nlisten = 80\nproxy_protocol = \"v2\"\n"),
        ),
        ("no connections", format!("{WEB}[ingress]\nconnections = 0\nconections_per_source = 1\n")),
        ("number as configuration", format!("{WEB}[config]\nPORT = 8080\n")),
        ("bad configuration name", format!("{WEB}[config]\n\"MY-PORT\" = \"8080\"\n")),
        ("unknown process in environment", format!("{WEB}[environment.staging]\ninstances = {{ worker = 2 }}\n")),
        ("no process", HEAD.to_owned()),
        ("several at once", "app = \"Hello\"\n[process.web]\ncpus = 1\nmemory = 128\n[config]\nA = 1\n".to_owned()),
        ("wide characters", format!("{WEB}command = [\"grüße\", 1]\n")),
        ("long line", format!("{WEB}command = [\"{}\", 1, \"{}\"]\n", "x".repeat(300), "y".repeat(300))),
        ("terminal escape", format!("{HEAD}\"\\u001b[2J\" = 1 # \t\n[process.web]\n")),
    ];
    let shown: Vec<String> = table.iter().map(|(name, text)| format!("## {name}\n{}", refused(text))).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn colour_adds_only_escape_codes() {
    let error = Manifest::parse(&format!("{WEB}instnaces = 2\n"), "holm.toml").unwrap_err();
    let coloured = error.render(true);
    assert!(coloured.contains("\x1b[1;31m"), "{coloured:?}");
    let mut plain = String::new();
    let mut pieces = coloured.split("\x1b[");
    plain.push_str(pieces.next().unwrap());
    for piece in pieces {
        plain.push_str(piece.split_once('m').unwrap().1);
    }
    assert_eq!(plain, error.render(false));
}

#[test]
fn many_mistakes_are_shown_up_to_twenty_and_counted() {
    let fields: String = (0..30).map(|n| format!("zz{n} = 1\n")).collect();
    let error = Manifest::parse(&format!("{WEB}{fields}"), "holm.toml").unwrap_err();
    assert_eq!((error.diagnostics.len(), error.more), (20, 10));
}

#[test]
fn limits_hold() {
    let many = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let cases = [
        ("process types", format!("{HEAD}{}", many(51, &|n| format!("[process.p{n}]\n")))),
        ("entries", format!("{WEB}[config]\n{}", many(1001, &|n| format!("A{n} = \"\"\n")))),
        (
            "routes",
            format!("{WEB}{}", many(201, &|n| format!("[[route]]\nprocess = \"web\"\nport = 1\nlisten = {}\n", n + 1))),
        ),
        ("bytes", format!("{WEB}[config]\nA = \"{}\"\n", "x".repeat(33 << 10))),
        ("bytes or more", format!("{WEB}#{}\n", "x".repeat(256 << 10))),
        ("environments", format!("{WEB}{}", many(21, &|n| format!("[environment.e{n}]\n")))),
        ("words", format!("{WEB}command = [{}]\n", many(257, &|_| "\"a\",".to_owned()))),
    ];
    for (what, text) in cases {
        let shown = refused(&text);
        assert!(shown.contains(what) && shown.contains("expected at most"), "{what}: {shown}");
    }
}

#[test]
fn bytes_that_are_not_text_are_refused_with_their_place() {
    let error = Manifest::from_bytes(b"schema = 1\napp = \"\xff\"\n", "holm.toml").unwrap_err();
    assert_eq!((error.diagnostics[0].at.line, error.diagnostics[0].at.column), (2, 8));
}

#[test]
fn deep_nesting_is_refused_without_exhausting_the_stack() {
    let text = format!("{WEB}command = {}{}\n", "[".repeat(50_000), "]".repeat(50_000));
    refused(&text);
    refused(&format!("{HEAD}process = {}", "{a=".repeat(50_000)));
    refused(&format!("{HEAD}[process.{}]\n", "a.".repeat(50_000) + "a"));
}

#[test]
fn a_secret_that_is_written_into_a_manifest_is_refused_and_not_shown() {
    for text in [
        format!("{WEB}[secrets]\nPASSWORD = \"hunter2\"\n"),
        format!("secrets = {{ OTHER = \"hunter2\", PASSWORD = \"hunter2\" }}\n{WEB}"),
    ] {
        let shown = refused(&text);
        assert!(shown.contains("holm secrets set PASSWORD") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn secrets_are_delivered_in_ways_that_exist() {
    for (what, line) in [
        ("permissions", "A = { mode = \"0999\" }"),
        ("permissions", "A = { mode = \"4755\" }"),
        ("true or false", "A = { env = \"yes\" }"),
        ("variable", "\"a.key\" = { env = true }"),
        ("not a user", "A = { owner = \"two words\" }"),
        ("unknown field", "A = { value = \"x\" }"),
        ("not a secret's name", "\"../a\" = {}"),
    ] {
        let shown = refused(&format!("{WEB}[secrets]\n{line}\n"));
        assert!(shown.contains(what), "{line}: {shown}");
    }
}
