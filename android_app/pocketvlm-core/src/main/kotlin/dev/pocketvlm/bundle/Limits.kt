package dev.pocketvlm.bundle

import dev.pocketvlm.images.MAX_PIXELS
import dev.pocketvlm.images.MAX_SIDE
import dev.pocketvlm.images.tilingProblem
import kotlin.math.abs

private const val MAX_TILES = 1024
private const val MAX_SCALE = 1e6

/** Why pictures cannot be made as the manifest's `vision` says, in one line; null where they can. */
internal fun visionProblem(vision: Vision, layout: ImageLayout): String? {
    val preprocessing = vision.preprocessing
    val tiling = preprocessing.tiling
    for (grid in tiling.candidates) {
        if (isTooLarge(grid, tiling.tileSize.toLong() * (tiling.part ?: 1))) return "vision.candidates: a grid is too large"
        if (layout.tile.size < grid.down || layout.tile.take(grid.down).any { it.size < grid.across }) {
            return "image_layout.tile has no entry for every tile of a grid"
        }
    }
    tilingProblem(tiling)?.let { return "vision.$it" }
    val isFactor = { value: Double -> value in 1 / MAX_SCALE..MAX_SCALE }
    return when {
        preprocessing.padColor.any { it == null } -> "vision.pad_color: not three bytes"
        !isFactor(preprocessing.rescale) -> "vision.rescale: out of range"
        !preprocessing.std.all(isFactor) || preprocessing.mean.any { abs(it) > MAX_SCALE } ->
            "vision.mean or std: out of range"
        else -> null
    }
}

/** [tile]: pixels a side, of a part where there are parts. */
private fun isTooLarge(grid: Grid, tile: Long): Boolean {
    val longest = maxOf(grid.across, grid.down).toLong()
    if (longest > MAX_TILES || grid.tiles > MAX_TILES || longest * tile > MAX_SIDE) return true
    return grid.tiles * tile * tile > MAX_PIXELS
}
