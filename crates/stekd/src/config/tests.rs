use super::*;

mod document;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config")
}

/// Every configuration under deploy/, wherever it stands.
fn every_sample() -> Vec<PathBuf> {
    let mut open = vec![samples().join("..")];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    assert!(found.len() >= 10, "samples are found");
    found
}

fn read_sample(name: &str, path: &Path) -> Result<()> {
    match name {
        "manager.toml" => read::<ManagerConfig>(path).map(drop),
        "distribution.toml" => read::<DistributionConfig>(path).map(drop),
        "terminator.toml" => read::<TerminatorConfig>(path).map(drop),
        "owner.toml" => read::<DatabaseConfig>(path).map(drop),
        "operator.toml" => read::<Profile>(path).map(drop),
        _ => anyhow::bail!("whose configuration is this?"),
    }
}

#[test]
fn every_sample_is_read() {
    for path in every_sample() {
        let name = path.file_name().unwrap().to_str().unwrap();
        read_sample(name, &path).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
    }
}

/// A line without the mark of a comment, if what it comments out is a section or a key.
fn taken_in(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("# ") else { return line };
    let key = rest.split_once(" = ").map_or("", |(key, _)| key);
    let is_key =
        !key.is_empty() && key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    if rest.starts_with('[') || is_key { rest } else { line }
}

#[test]
fn what_samples_comment_out_can_be_taken_in() {
    let mut taken = 0;
    for path in every_sample() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let sample = std::fs::read_to_string(&path).unwrap();
        let text: Vec<_> = sample.lines().map(taken_in).collect();
        let text = text.join("\n");
        taken += usize::from(text != sample.trim_end());
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join(name);
        std::fs::write(&copy, text).unwrap();
        read_sample(name, &copy).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
    }
    assert!(taken >= 4, "samples comment something out");
}

fn refused(text: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let error = read::<ManagerConfig>(file.path()).unwrap_err();
    assert_eq!(crate::exit_code(&error), 64);
    format!("{error:#}")
}

#[test]
fn a_wrong_key_is_named_with_its_line() {
    let good = std::fs::read_to_string(samples().join("manager.toml")).unwrap();
    let error = refused(&good.replace("state_file", "statefile"));
    assert!(error.contains("statefile"), "{error}");
    assert!(error.contains("line"), "{error}");
    let error = refused("[database]\nurl = 7\n");
    assert!(error.contains("url"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = read::<Profile>(Path::new("/nowhere/operator.toml")).unwrap_err();
    assert!(format!("{error:#}").contains("/nowhere/operator.toml"), "{error:#}");
    assert_eq!(crate::exit_code(&error), 64);
}

#[test]
fn relative_paths_belong_to_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operator.toml");
    std::fs::write(&path, "server = \"https://localhost:1\"\ntoken_file = \"token\"\n").unwrap();
    let profile: Profile = read(&path).unwrap();
    assert_eq!(profile.token_file.unwrap(), folder.path().join("token"));
}
