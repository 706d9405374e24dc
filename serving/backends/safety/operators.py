"""TensorFlow's operators that do more than compute.

Source: the registry of TensorFlow 2.21 (1910 operators). Taken from it were those that have an input or attribute which
names a file, a directory, an address or a program, and those that are known by their name to reach beyond the graph;
each was then looked at. tests/backends/safety/test_operators.py does the same with the TensorFlow that is installed,
and fails on one that is neither here nor among those that were found harmless.
"""

# What each group does, as operators are told, and its members.
_GROUPS: dict[str, str] = {
    "runs Python code": "EagerPyFunc PyFunc PyFuncStateless",
    "reads files": """
        CSVDataset CSVDatasetV2 DTensorRestoreV2 ExperimentalCSVDataset ExperimentalLMDBDataset
        ExperimentalMatchingFilesDataset ExperimentalSqlDataset FixedLengthRecordDataset FixedLengthRecordDatasetV2
        FixedLengthRecordReader FixedLengthRecordReaderV2 GenerateVocabRemapping ImmutableConst InitializeTRTResource
        LMDBDataset LMDBReader ListSnapshotChunksDataset LoadAndRemapMatrix LoadDataset MatchingFiles
        MatchingFilesDataset ReadFile RecordInput Skipgram SnapshotChunkDataset SnapshotDatasetReader
        SnapshotNestedDatasetReader SqlDataset TFRecordDataset TFRecordDatasetV2 TFRecordReader TFRecordReaderV2
        TextLineDataset TextLineReader TextLineReaderV2 WholeFileReader WholeFileReaderV2
    """,
    "reads from queues of files": "IdentityReader IdentityReaderV2",
    "writes files": """
        CacheDataset CacheDatasetV2 CalibrationStatisticsSaver CreateSummaryDbWriter CreateSummaryFileWriter
        DatasetToTFRecord DistributedSave DumpTensor ExperimentalDatasetToTFRecord SaveDataset SaveDatasetV2
        SnapshotDataset SnapshotDatasetV2 WriteFile
    """,
    "writes to files or the network": """
        Copy CopyHost DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount DebugNumericSummary
    """,
    "changes how files are reached": "FileSystemSetConfiguration",
    "uses the network": """
        DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4 RegisterDataset
        RegisterDatasetV2 RemoteCall RpcCall RpcCheckStatus RpcClient RpcGetValue RpcServer RpcServerRegister
        RpcServerStart
    """,
    "ends the process": "Abort",
    # Whatever these run does not lie in the graph as operators, so nobody can look at it.
    "runs a program that is hidden in a value": """
        DatasetFromGraph MlirPassthroughOp TRTEngineOp XlaCallModule XlaCustomCall XlaCustomCallV2 _TPUCompileMlir
    """,
}

REFUSED: dict[str, str] = {op: what for what, ops in _GROUPS.items() for op in ops.split()}

# Refused if an attribute has a value that begins so: operator -> attribute, beginning, what it does then.
REFUSED_WITH: dict[str, tuple[str, str, str]] = {
    "FixedUnigramCandidateSampler": ("vocab_file", "", "reads files"),
    "PrintV2": ("output_stream", "file://", "writes files"),
}

# Those that TensorFlow puts into every SavedModel to write and read its variables. Operator -> number of the input that
# names the file.
RESTORES: dict[str, int] = {"Restore": 0, "RestoreSlice": 0, "RestoreV2": 0}
SAVES = frozenset(("MergeV2Checkpoints", "Save", "SaveSlices", "SaveV2"))

# Those that fill a lookup table from one of the model's own assets.
TABLES: dict[str, int] = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}
