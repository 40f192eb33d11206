use super::*;

#[test]
fn words_and_status_of_a_failing_program_come_back() {
    let output = run("sh", &["-c", "echo out; echo ' no\n way' >&2; exit 3"], "").unwrap();
    assert_eq!(output.stdout, "out\n");
    assert_eq!(output.checked().unwrap_err().to_string(), "sh: no way");
}

#[test]
fn a_program_that_reads_nothing_still_tells_why_it_failed() {
    let input = "x".repeat(1 << 20);
    let output = run("sh", &["-c", "echo no >&2; exit 1"], &input).unwrap();
    assert_eq!(output.checked().unwrap_err().to_string(), "sh: no");
}

#[test]
fn a_silent_failure_names_the_signal() {
    let output = run("sh", &["-c", "kill -9 $$"], "").unwrap();
    assert!(!output.success());
    assert!(
        output.failure().to_string().contains("signal"),
        "{}",
        output.failure()
    );
}

#[test]
fn a_missing_program_is_named() {
    let error = run("no-such-program", &[], "").unwrap_err().to_string();
    assert_eq!(error, "no-such-program was not found: is it installed?");
}
