package dev.pocketvlm.runtime

import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.bundle.Bundle
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.PatchPictures
import dev.pocketvlm.images.AXES
import dev.pocketvlm.images.antialiased
import dev.pocketvlm.images.axisOfPairs
import dev.pocketvlm.images.bucketed
import dev.pocketvlm.images.byAxis
import dev.pocketvlm.images.interpolated
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/** A file of float32, whose bytes the manifest has counted. */
internal fun floatsOf(bundle: Bundle, name: String): FloatArray {
    val values = ByteBuffer.wrap(bundle.read(name, Int.MAX_VALUE.toLong())).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    return FloatArray(values.remaining()).also { values.get(it) }
}

/** What is added to the patches of a picture, out of a bundle's table of positions; null where it has none. */
internal class PositionTable private constructor(
    private val values: FloatArray,
    private val side: Int,
    private val ratio: Int,
    private val laidOver: (Grid, Int, FloatArray, Int) -> FloatArray,
) {
    /** [tiles, patches, vision width] of a picture of so many tiles. */
    fun rows(grid: Grid): FloatArray = laidOver(grid, ratio, values, side)

    companion object {
        fun of(bundle: Bundle, native: PatchPictures, ratio: Int): PositionTable? = native.table?.let {
            val laidOver = when {
                native.tableByAxis -> ::byAxis
                native.tableBucketed -> ::bucketed
                native.tableResized -> ::antialiased
                else -> ::interpolated
            }
            PositionTable(floatsOf(bundle, it), checkNotNull(native.tableSide), ratio, laidOver)
        }
    }
}

/** cos and sin of tokens with a position on each of three axes, out of a bundle's table. */
internal class TokenRope private constructor(private val table: FloatArray, private val axes: IntArray, private val length: Int) {
    val pairs: Int get() = axes.size

    /** Writes [tokens, pairs] each, of [positions] [tokens, 3]. */
    fun rows(positions: IntArray, cos: FloatBuffer, sin: FloatBuffer) {
        for (token in 0 until positions.size / AXES) for (pair in axes.indices) {
            val at = positions[AXES * token + axes[pair]]
            check(at in 0 until length) { "a token's position is $at, the table has $length" }
            val out = token * axes.size + pair
            cos.put(out, table[at * axes.size + pair])
            sin.put(out, table[(length + at) * axes.size + pair])
        }
    }

    companion object {
        /** Null where a token's position is its place in the cache. */
        fun of(bundle: Bundle): TokenRope? = bundle.manifest.positions?.let { said ->
            val axes = axisOfPairs(said.sections, said.interleaved)
            TokenRope(floatsOf(bundle, said.rope), axes, bundle.manifest.kvCache.length)
        }
    }
}

/**
 * What a part takes must be as the manifest says, before anything of that size is made: -1 is a size that varies.
 *
 * @throws BundleDamaged it is not
 */
internal fun checkInputs(part: String, session: OrtSession, wanted: Map<String, List<Int>>) {
    for ((name, shape) in wanted) {
        val found = (session.inputInfo[name]?.info as? TensorInfo)?.shape
            ?: throw BundleDamaged("$part has no input '$name': export the bundle again")
        val isSame = found.size == shape.size && shape.indices.all { shape[it] < 0 || shape[it].toLong() == found[it] }
        if (!isSame) throw BundleDamaged("$part: input '$name' is not what the manifest says")
    }
}
