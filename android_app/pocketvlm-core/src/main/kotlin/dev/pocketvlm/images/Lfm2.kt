package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Tiling
import kotlin.math.max

/** Tiles along a side of a part. */
private const val MOST_PART = 64

/** A picture is large beyond so many times the most pixels. */
private const val TOLERANCE = 2L

/** Of a tile, where it is asked whether a picture is large. */
private const val PATCHES_OF_A_SIDE = 2

/**
 * The whole picture, and of a large one square parts before it: LFM2-VL's resize_and_split (`pocketvlm.images.rules.lfm2`).
 *
 * @throws dev.pocketvlm.PocketVlmException.ImageUnusable the picture is too narrow
 */
internal fun lfm2(size: Size, tiling: Tiling): PicturePlan {
    val tile = tiling.tileSize
    val part = checkNotNull(tiling.part)
    val whole = wholePicture(size, tiling, fewest = 1)
    val side = { pixels: Int -> max((tile / PATCHES_OF_A_SIDE).toLong(), Math.rint(pixels.toDouble() / tile).toLong() * tile) }
    val isLarge = side(size.width) * side(size.height) > TOLERANCE * checkNotNull(tiling.maxPixels)
    val grid = if (isLarge) closest(size, part * tile, tiling.candidates) else Grid(1, 1)
    if (grid == Grid(1, 1)) return PicturePlan(grid, listOf(inPixels(whole, tile)), 0, 0, null, 0, whole)
    val canvas = Grid(grid.across * part, grid.down * part)
    val square = Grid(part, part)
    return PicturePlan(grid, listOf(inPixels(canvas, tile)), 0, 0, grid.tiles.toInt(), 0, square, whole)
}

internal fun lfm2Problem(tiling: Tiling): String? = when {
    tiling.part == null || tiling.part !in 1..MOST_PART -> "part: lfm2 needs it, from 1 to $MOST_PART"
    tiling.thumbnail != "last" || tiling.thumbnailOfSingleTile -> "thumbnail: lfm2 has it last, and none of a whole picture"
    else -> boundsProblem(tiling)
}
