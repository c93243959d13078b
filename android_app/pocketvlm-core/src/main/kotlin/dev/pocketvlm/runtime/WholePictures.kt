package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtSession
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.PatchPictures
import dev.pocketvlm.bundle.Vision
import dev.pocketvlm.images.axialRope
import dev.pocketvlm.images.sincosRows
import dev.pocketvlm.images.windowsOf
import java.nio.FloatBuffer

/** What the vision parts of a bundle take beside tiles, whose pictures go through the tower as a whole. */
internal class WholePictures(private val runtime: OnnxRuntime, vision: Vision, private val native: PatchPictures) {
    private val ratio = Math.toIntExact(vision.downsampleRatio)
    private val perTile = Math.toIntExact(vision.patchesPerTile)
    private val width = Math.toIntExact(vision.hiddenSize)
    private val hidden = Math.toIntExact(runtime.bundle.manifest.model.hiddenSize)
    private val entering = Math.toIntExact(runtime.bundle.manifest.enteringWidth)
    private val table = PositionTable.of(runtime.bundle, native, ratio)

    /** @throws dev.pocketvlm.PocketVlmException.BundleDamaged what they take is not what the manifest says */
    fun check(sessions: Map<String, OrtSession>) {
        val patches = listOf(-1, perTile, width)
        if (table != null) {
            checkInputs("patch_embedding", sessions.getValue("patch_embedding"), mapOf("position_rows" to patches))
        }
        val places = HashMap<String, List<Int>>()
        places["patches"] = patches
        for (name in listOf("rope_cos", "rope_sin")) places[name] = listOf(-1, perTile, native.headDim / 2)
        if (native.queries != null) places["key_rows"] = listOf(-1, perTile, hidden)
        native.window?.let { side ->
            places["window_tiles"] = listOf(-1, side * side)
            places["window_mask"] = listOf(-1, side * side * perTile)
            places["window_positions"] = listOf(-1)
        }
        checkInputs("vision_encoder", sessions.getValue("vision_encoder"), places)
    }

    /** What is added to the patches of a picture, [tiles, patches, vision width]; null: nothing. */
    fun rows(grid: Grid): FloatArray? = table?.rows(grid)

    /** Of those, what [count] tiles from [first] on get. */
    fun part(rows: FloatArray, first: Int, count: Int): OnnxTensor {
        val each = perTile * width
        return tensor(rows, first * each, count * each, count, perTile, width)
    }

    /** Room for the patches of so many tiles. */
    fun patches(tiles: Int): FloatBuffer = direct(bytes(4, tiles, perTile, width)).asFloatBuffer()

    /** Tokens [tiles, entering width] of a picture, of whose tiles all patches are given; of a resampler [queries, ...]. */
    fun encoded(encoder: OrtSession, patches: FloatBuffer, grid: Grid, interrupt: Interrupt): FloatArray {
        val tiles = grid.tiles.toInt()
        val given = LinkedHashMap<String, OnnxTensor>()
        try {
            patches.rewind()
            given["patches"] = runtime.tensor(patches, tiles, perTile, width)
            addPlace(grid, given)
            return encoder.run(given, interrupt.options).use { found ->
                FloatArray(Math.multiplyExact(native.tokensOf(grid), entering)).also { (found[0] as OnnxTensor).floatBuffer.get(it) }
            }
        } finally {
            given.values.forEach(OnnxTensor::close)
        }
    }

    private fun addPlace(grid: Grid, given: MutableMap<String, OnnxTensor>) {
        val tiles = grid.tiles.toInt()
        val (cos, sin) = axialRope(grid, ratio, native.headDim, native.ropeTheta)
        for ((name, turn) in listOf("rope_cos" to cos, "rope_sin" to sin)) {
            given[name] = tensor(turn, 0, turn.size, tiles, perTile, native.headDim / 2)
        }
        if (native.queries != null) {
            val rows = sincosRows(grid, hidden)
            given["key_rows"] = tensor(rows, 0, rows.size, tiles, perTile, hidden)
        }
        val side = native.window ?: return
        val cut = windowsOf(grid, side, ratio)
        val places = longArrayOf(cut.count.toLong(), side.toLong() * side)
        val environment = runtime.environment
        given["window_tiles"] = OnnxTensor.createTensor(environment, longs(cut.tiles), places)
        given["window_positions"] = OnnxTensor.createTensor(environment, longs(cut.positions), longArrayOf(tiles.toLong()))
        val mask = direct(bytes(4, cut.mask.size)).asIntBuffer().put(cut.mask).also { it.rewind() }
        val patches = longArrayOf(places[0], places[1] * perTile)
        given["window_mask"] = OnnxTensor.createTensor(environment, mask, patches)
    }

    private fun longs(values: LongArray) = direct(bytes(8, values.size)).asLongBuffer().put(values).also { it.rewind() }

    private fun tensor(values: FloatArray, from: Int, count: Int, vararg shape: Int): OnnxTensor {
        val buffer = direct(bytes(4, count)).asFloatBuffer().put(values, from, count).also { it.rewind() }
        return runtime.tensor(buffer, *shape)
    }
}

/** A product that an int holds. */
private fun bytes(vararg sizes: Int): Int = sizes.fold(1, Math::multiplyExact)
