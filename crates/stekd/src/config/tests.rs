use super::*;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config")
}

#[test]
fn the_samples_are_read() {
    let manager: ManagerConfig = read(&samples().join("manager.toml")).unwrap();
    assert!(manager.custody.state_file.is_absolute());
    let _: DistributionConfig = read(&samples().join("distribution.toml")).unwrap();
    let _: TerminatorConfig = read(&samples().join("terminator.toml")).unwrap();
    let _: Profile = read(&samples().join("operator.toml")).unwrap();
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
