package dev.pocketvlm.bundle

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.bundle.graphs.GraphRefused
import dev.pocketvlm.bundle.graphs.checkGraph
import dev.pocketvlm.images.mostWindows
import java.nio.channels.FileChannel.MapMode.READ_ONLY

/** Bytes. */
private const val MAX_GRAPH = 256L shl 20
private const val PROGRAM_START = 6
private val GRAPH_ENGINES = listOf("onnx", "neuropilot", "qnn")

/**
 * Refuses graphs that no export writes, before an engine sees them, which trusts them. Programs of ExecuTorch, which this
 * library does not run, are known by their first bytes alone, and parts for LiteRT are not looked into.
 *
 * @throws BundleDamaged naming the graph, and what of it is wrong
 */
internal fun checkGraphs(bundle: Bundle) {
    for ((name, part) in bundle.manifest.engines["executorch"].orEmpty()) checkProgram(bundle, name, part)
    for (engine in GRAPH_ENGINES) {
        for ((name, part) in bundle.manifest.engines[engine].orEmpty()) checkPart(bundle, name, part)
    }
}

/** The graph is mapped, not read: it may have more bytes than an app gets of Java's heap. */
private fun checkPart(bundle: Bundle, name: String, part: Part) = open(bundle.path(part.file)).use { file ->
    if (file.size() > MAX_GRAPH) {
        throw BundleDamaged("${part.file} is larger than $MAX_GRAPH bytes; it is not a graph without weights")
    }
    val beside = part.file.substringBeforeLast('/', "").let { if (it.isEmpty()) "" else "$it/" }
    val data = part.data.filter { it.startsWith(beside) }
        .associate { it.removePrefix(beside) to bundle.manifest.files.getValue(it).bytes }
    try {
        checkGraph(file.map(READ_ONLY, 0, file.size()), sizesOf(bundle.manifest, name), data)
    } catch (error: GraphRefused) {
        throw BundleDamaged("${part.file} is not a graph that a bundle may have: ${error.message}", error)
    }
}

/** What the dimensions of a part's inputs that vary are at most. */
private fun sizesOf(manifest: Manifest, part: String): Map<String, Long> {
    val length = manifest.kvCache.length.toLong()
    val step = if (part == "token_embedding") length else minOf(length, manifest.prefillChunk.toLong())
    val tiles = manifest.vision?.tileBatch ?: 1
    val sizes = mapOf("batch" to 1L, "sequence" to step, "kept" to step, "total" to length, "tiles" to tiles.toLong())
    val native = manifest.vision?.patches ?: return sizes
    val windows = native.window?.let { mapOf("windows" to mostWindows(native.mostTokens, it).toLong()) }.orEmpty()
    return sizes + ("tiles" to native.mostTokens.toLong()) + windows
}

private fun checkProgram(bundle: Bundle, name: String, part: Part) {
    val start = ByteArray(PROGRAM_START)
    open(bundle.path(part.file)).use { file ->
        file.readExactly(0, start, minOf(file.size(), start.size.toLong()).toInt())
    }
    if (part.data.isEmpty() && start[4] == 'E'.code.toByte() && start[5] == 'T'.code.toByte()) return
    val shown = oneLine(name, 80)
    throw BundleDamaged("${part.file}, of the part $shown, is not an ExecuTorch program with its weights inside")
}
