package dev.pocketvlm.bundle

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.BundleTooNew

/** The newest format that is read. */
private const val FORMAT = 5

/** Counted by commas, before any value is looked at. */
private const val MAX_VALUES = 1 shl 16
/** All that a bundle may have parts of. */
internal val ENGINES: Array<String> = arrayOf("onnx", "executorch", "neuropilot", "qnn", "litert", "litert_npu")

/** Of the section `model`. */
private val MODEL =
    arrayOf("name", "family", "revision", "vocab_size", "hidden_size", "layers", "row_width", "limits", "source", "adapter")

/** Engines whose parts are a static program, and the first format that knows them. */
private val NPU_ENGINES = mapOf("neuropilot" to 2, "qnn" to 3, "litert_npu" to 4)

/**
 * Reads and checks the text of a `manifest.json`; [where] is its path, for the error.
 *
 * @throws BundleDamaged naming the key that is wrong
 * @throws BundleTooNew its format is newer than this library
 */
internal fun parseManifest(text: ByteArray, where: String): Manifest {
    try {
        if (text.count { it == ','.code.toByte() } > MAX_VALUES) throw Refused("", "it has more than $MAX_VALUES values")
        val root = Reader(parseJson(text))
        return ManifestReader(root, formatOf(root, where), sha256(text)).read()
    } catch (refused: Refused) {
        val key = if (refused.where.isEmpty()) "" else " at ${oneLine(refused.where)}"
        throw BundleDamaged("${oneLine(where, 200)} is not valid$key: ${oneLine(refused.why, 160)}")
    }
}

/** Version first: a newer bundle may have keys that this reader does not know. */
private fun formatOf(root: Reader, where: String): Int {
    val version = root.entries { _, value -> value }["format_version"] ?: root.missing("format_version")
    if (!version.isWhole) version.refuse("it is no whole number")
    if (version.number() > FORMAT) {
        throw BundleTooNew("${oneLine(where, 200)} has a newer bundle format; this library reads up to $FORMAT: update it")
    }
    return version.int(1, FORMAT)
}

private class ManifestReader(private val root: Reader, private val format: Int, private val sha256: String) {
    private val top = root.members(
        "format_version", "minimum_runtime", "model", "vision", "image_layout", "tokens", "tokenizer", "chat", "kv_cache",
        "prefill_chunk", "engines", "by_engine", "neuropilot", "qnn", "litert_npu", "positions", "spans",
        "preference", "recipe", "fidelity", "files",
    )

    fun read(): Manifest {
        val runtime = top["minimum_runtime"].members("pocketvlm", "onnxruntime", "executorch", "litert")
        val tokens = top["tokens"].members("stop", "image")
        val engines = engines(top["engines"])
        checkRecipe(top["recipe"])
        checkFidelity(top["fidelity"])
        val pictures = VisionSections(format)
        val seen = orNull("vision")?.let(pictures::vision)
        val firstChunk = top["prefill_chunk"].int(1, 1 shl 16)
        val chunks = chunksOf(engines)
        val manifest = Manifest(
            minimumPocketvlm = runtime["pocketvlm"].name(),
            minimumOnnxruntime = runtime.given("onnxruntime")?.name(),
            model = model(top["model"]),
            vision = seen,
            imageLayout = orNull("image_layout")?.let(pictures::imageLayout),
            stop = tokens["stop"].tokenIds(),
            imageToken = tokens["image"].takeUnless { it.value == null }?.int(0, Int.MAX_VALUE),
            tokenizer = top["tokenizer"].fileName(),
            chat = orNull("chat")?.let(ChatSection(format)::read),
            kvCache = kvCache(top["kv_cache"], top["model"].members(*MODEL)["layers"].int(1, 4096), engines.keys),
            positions = top.given("positions")?.let(::positions),
            spans = top.optional("spans")?.let(::spans) ?: "none",
            prefillChunk = chunks["onnx"] ?: firstChunk,
            engines = engines,
            preference = preference(engines.keys),
            files = files(top["files"]),
            sha256 = sha256,
        )
        val asksForExecutorch = runtime.given("executorch")?.name() != null
        if (format == 1 && (asksForExecutorch || "executorch" in engines)) root.refuse("format 1 has no ExecuTorch parts")
        val asksForLitert = runtime.given("litert")?.name() != null
        val hasLitert = "litert" in engines || "litert_npu" in engines
        if (format < 4 && (asksForLitert || hasLitert)) root.refuse("only format 4 has LiteRT parts")
        checkFiles(manifest, npuFiles(manifest))
        spanProblem(manifest, minOf(firstChunk, chunks.values.minOrNull() ?: firstChunk))?.let(root::refuse)
        return manifest
    }

    /** A section that must be there and may be null. */
    private fun orNull(key: String): Reader? = top[key].takeUnless { it.value == null }

    private fun model(value: Reader): Model {
        val of = value.members(*MODEL)
        of["family"].name()
        of["revision"].name()
        of.inFormat3("source", format)?.name()
        of.inFormat3("adapter", format)?.let { adapter ->
            val merged = adapter.members("name", "sha256")
            merged["name"].name()
            merged["sha256"].sha256()
        }
        val limits = of.inFormat3("limits", format)?.name()
        val layers = of["layers"].int(1, 4096)
        val row = of.given("row_width")
        if (row != null && format < 5) row.refuse("only format 5 has it")
        val (words, hidden) = of["vocab_size"].positive() to of["hidden_size"].positive()
        return Model(of["name"].name(), words, hidden, layers, row?.int(1, 1 shl 16) ?: 0, limits)
    }

    private fun kvCache(value: Reader, layers: Int, engines: Set<String>): KvCacheSpec {
        val of = value.members("length", "dtype", "heads", "head_dim", "layers")
        val dtype = of["dtype"].choice("float32", "int8")
        val headDim = of["head_dim"].positive()
        val caches = of.given("layers")?.let { layerCaches(it, layers, headDim) } ?: List(layers) { LayerCache() }
        if (!caches.all { it.isPlain }) {
            engines.find { it != "onnx" && it != "executorch" }?.let { root.refuse("$it keeps no caches of several kinds") }
        }
        return KvCacheSpec(of["length"].int(1, 1 shl 20), dtype, of["heads"].positive(), headDim, caches)
    }

    /** Which kind of cache each layer has. */
    private fun layerCaches(given: Reader, layers: Int, headDim: Long): List<LayerCache> {
        val caches = given.list(1, 4096, ::readLayerCache)
        if (caches.all { it.isPlain }) given.refuse("it has attention alone, which is said by leaving it out")
        for ((at, one) in caches.withIndex()) {
            if (one.headDim?.toLong() == headDim) given.refuse("a head_dim is the cache's own, which is said by leaving it out")
            val source = one.source ?: continue
            val isKept = source < at && caches[source].isAttention
            if (!isKept) given.refuse("a layer reads the cache of no earlier layer with attention")
        }
        if (format < 5) given.refuse("only format 5 has it")
        if (caches.size != layers) given.refuse("it has ${caches.size} layers, the model $layers")
        return caches
    }

    private fun positions(value: Reader): MropePositions {
        if (format < 5) value.refuse("only format 5 has positions")
        return readPositions(value)
    }

    private fun spans(value: Reader): String {
        val read = value.choice("none", "image", "prompt")
        if (read != "none" && format < 5) value.refuse("only format 5 has spans")
        return read
    }

    private fun engines(value: Reader): Map<String, Map<String, Part>> {
        value.members(*ENGINES)
        return value.entries { _, parts -> parts.named(::part) }
    }

    private fun part(value: Reader): Part {
        val of = value.members("file", "data", "inputs", "outputs")
        of["inputs"].list(read = ::checkTensorSpec)
        of["outputs"].list(read = ::checkTensorSpec)
        return Part(of["file"].fileName(), of.optional("data")?.list { it.fileName() }.orEmpty())
    }

    private fun preference(engines: Set<String>): List<PreferredEngine> {
        val given = top.optional("preference") ?: return emptyList()
        val listed = readPreference(given)
        if (listed.isNotEmpty() && format < 4) root.refuse("only format 4 has a preference")
        val names = listed.map { it.engine }
        if (names.toSet().size != names.size || !engines.containsAll(names)) {
            given.refuse("it has an engine twice, or one that engines does not have")
        }
        return listed
    }

    private fun files(value: Reader): Map<String, FileEntry> = value.entries { name, entry ->
        if (!isFileName(name)) entry.refuse("it is not a file name that a bundle may use")
        val of = entry.members("bytes", "sha256", "sample_sha256")
        FileEntry(of["bytes"].long(0, 1L shl 44), of["sha256"].sha256(), of["sample_sha256"].sha256())
    }

    /** The prefill chunks of engines that have their own. */
    private fun chunksOf(engines: Map<String, Map<String, Part>>): Map<String, Int> {
        val value = top.optional("by_engine") ?: return emptyMap()
        value.members(*ENGINES)
        val chunks = value.entries { _, own ->
            val of = own.members("prefill_chunk", "tensors", "fidelity")
            checkTensors(of["tensors"])
            checkFidelity(of["fidelity"])
            of["prefill_chunk"].int(1, 1 shl 16)
        }
        if (chunks.isEmpty()) return chunks
        if (format == 1) root.refuse("format 1 has no by_engine")
        if (chunks.keys != engines.keys) value.refuse("by_engine has other engines than engines")
        return chunks
    }

    /** Of each NPU's program, the files beside its graphs. */
    private fun npuFiles(manifest: Manifest): Map<String, List<String>> = NPU_ENGINES.mapValues { (engine, since) ->
        val program = top.given(engine)
        if ((program != null) != (engine in manifest.engines)) {
            root.refuse("$engine and engines.$engine belong together")
        }
        if (program != null && format < since) root.refuse("format $format has no parts for an NPU of that kind")
        val layers = manifest.model.layers
        program?.let { if (engine == "litert_npu") checkLitertNpu(it) else checkNpu(engine, it, layers) }.orEmpty()
    }

    /** What the sections say of each other. */
    private fun checkFiles(manifest: Manifest, npuFiles: Map<String, List<String>>) {
        for ((engine, parts) in manifest.engines) for ((name, part) in parts) for (file in part.data + part.file) {
            if (file !in manifest.files) {
                root.refuse("$engine part ${oneLine(name, 80)} uses $file, which 'files' does not list")
            }
        }
        for ((engine, files) in npuFiles) for (file in files) {
            if (file !in manifest.files) root.refuse("$engine uses $file, which 'files' does not list")
        }
        if (manifest.tokenizer !in manifest.files) root.refuse("the tokenizer is not in 'files'")
        manifest.vision?.packing?.let { packing ->
            if (manifest.files[packing.newline]?.bytes != 4 * manifest.model.hiddenSize) {
                root.refuse("packing.newline is no file of as many float32 as the model is wide")
            }
        }
        tableProblem(manifest)?.let(root::refuse)
        val given = listOf(manifest.vision, manifest.imageLayout, manifest.imageToken).count { it != null }
        if (given != 0 && given != 3) root.refuse("vision, image_layout and tokens.image belong together")
    }
}
