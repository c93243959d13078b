package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtSession
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Vision
import dev.pocketvlm.images.Tiles
import dev.pocketvlm.images.normalize
import java.util.concurrent.ExecutionException
import java.util.concurrent.ExecutorService
import java.util.concurrent.Future

private val PARTS = listOf("patch_embedding", "vision_encoder")

/**
 * The vision parts of `engines.onnx`, loaded at first use. One thread at a time runs it; [ahead] embeds the patches of the
 * next tiles while the encoder runs these (arXiv 2411.10640, section 3.3).
 */
internal class VisionEngine(private val runtime: OnnxRuntime, private val vision: Vision, private val ahead: ExecutorService) :
    AutoCloseable {
    private val hidden = Math.toIntExact(runtime.bundle.manifest.model.hiddenSize)
    private val native = vision.patches?.let { WholePictures(runtime, vision, it) }
    private val sessions = HashMap<String, OrtSession>()
    private var isClosed = false

    /** @throws dev.pocketvlm.PocketVlmException.BundleDamaged a part is missing, or does not load */
    @Synchronized
    fun load() {
        if (isClosed) throw EngineFailed("the model is closed")
        // Threads that wait busily for the next picture would take the decoder's cores.
        for (name in PARTS) sessions.getOrPut(name) {
            runtime.open(name) { addConfigEntry("session.intra_op.allow_spinning", "0") }
        }
        native?.check(PARTS.associateWith(::session))
    }

    /** Gives the memory back until the next picture; not while one is encoded. */
    @Synchronized
    fun free() {
        sessions.values.forEach(OrtSession::close)
        sessions.clear()
    }

    /** A picture's tiles -> tokens [tiles * tokens per tile, hidden], some tiles at a time; [done]: so many are. */
    fun encode(tiles: Tiles, interrupt: Interrupt, done: (Int) -> Unit): FloatArray {
        load()
        if (native != null) return encodeWhole(native, tiles, interrupt, done)
        val tokens = FloatArray(Math.multiplyExact(Math.multiplyExact(tiles.count, vision.tokensPerTile), hidden))
        val starts = (0 until tiles.count step vision.tileBatch).toList()
        var upcoming: Future<OrtSession.Result>? = ahead.submit<OrtSession.Result> { patches(tiles, starts[0], batchAt(0, tiles.count), interrupt) }
        try {
            for ((index, first) in starts.withIndex()) {
                val patches = resultOf(checkNotNull(upcoming))
                upcoming = starts.getOrNull(index + 1)?.let { next ->
                    ahead.submit<OrtSession.Result> { patches(tiles, next, batchAt(next, tiles.count), interrupt) }
                }
                patches.use { encode(it, tokens, first, batchAt(first, tiles.count), interrupt) }
                done(minOf(first + vision.tileBatch, tiles.count))
            }
        } finally {
            // What was begun still uses the session, which may be freed next.
            upcoming?.let { left -> runCatching { left.get().close() } }
        }
        return tokens
    }

    /** How many tiles go through a graph from [first] on, of those before [end]. */
    private fun batchAt(first: Int, end: Int): Int = minOf(vision.tileBatch, end - first)

    /** A picture of native resolution -> tokens [tiles, entering width], those of each part that see each other together. */
    private fun encodeWhole(whole: WholePictures, tiles: Tiles, interrupt: Interrupt, done: (Int) -> Unit): FloatArray {
        val starts = tiles.seen.runningFold(0) { first, grid -> first + grid.tiles.toInt() }
        val parts = tiles.seen.zip(starts) { grid, first -> encodePart(whole, tiles, first, grid, interrupt, done) }
        if (parts.size == 1) return parts[0]
        val tokens = FloatArray(parts.sumOf { it.size })
        parts.fold(0) { at, part -> at + part.size.also { part.copyInto(tokens, at) } }
        return tokens
    }

    /** Of the tiles from [begin] on those of [grid]: some at a time are embedded, all encoded. */
    private fun encodePart(
        whole: WholePictures,
        tiles: Tiles,
        begin: Int,
        grid: Grid,
        interrupt: Interrupt,
        done: (Int) -> Unit,
    ): FloatArray {
        val end = begin + grid.tiles.toInt()
        val rows = whole.rows(grid)
        val patches = whole.patches(end - begin)
        for (first in begin until end step vision.tileBatch) {
            val count = batchAt(first, end)
            patches(tiles, first, count, interrupt, rows?.let { whole.part(it, first - begin, count) }).use { found ->
                patches.put((found[0] as OnnxTensor).floatBuffer)
            }
            done(first + count)
        }
        return running("vision_encoder", interrupt) { whole.encoded(session("vision_encoder"), patches, grid, interrupt) }
    }

    private fun patches(
        tiles: Tiles,
        first: Int,
        count: Int,
        interrupt: Interrupt,
        rows: OnnxTensor? = null,
    ): OrtSession.Result {
        val side = vision.preprocessing.tiling.tileSize
        val pixels = direct(Math.multiplyExact(4 * count * 3, side * side)).asFloatBuffer()
        normalize(tiles, first, count, vision.preprocessing, pixels)
        pixels.rewind()
        return running("patch_embedding", interrupt) {
            runtime.tensor(pixels, count, 3, side, side).use { input ->
                val given = mapOf("pixel_values" to input) + rows?.let { mapOf("position_rows" to it) }.orEmpty()
                rows.use { session("patch_embedding").run(given, interrupt.options) }
            }
        }
    }

    private fun encode(patches: OrtSession.Result, tokens: FloatArray, first: Int, count: Int, interrupt: Interrupt) =
        running("vision_encoder", interrupt) {
            val given = mapOf("patches" to patches[0] as OnnxTensor)
            session("vision_encoder").run(given, interrupt.options).use { result ->
                val size = count * vision.tokensPerTile * hidden
                (result[0] as OnnxTensor).floatBuffer.get(tokens, first * vision.tokensPerTile * hidden, size)
            }
        }

    @Synchronized
    override fun close() {
        isClosed = true
        free()
    }

    private fun session(name: String): OrtSession = sessions[name] ?: throw EngineFailed("$name is not loaded")
}

/** As if the work had been done here. */
private fun <T> resultOf(future: Future<T>): T = try {
    future.get()
} catch (error: ExecutionException) {
    throw error.cause ?: error
}
