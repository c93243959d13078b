package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Tiling

/**
 * What becomes of a picture: resized to each of [resizes] in turn, laid with its corner at ([left], [top]) of a canvas of
 * [grid] tiles (before it, where that is negative: what lies outside is left out), and cut there. A thumbnail, what the
 * first [thumbnailOf] of the resizes made squashed to one tile, stands at [thumbnail] of the tiles; null is none. Pixels.
 * Before all that it is laid in the middle of a square of [square] pixels a side, where there is one: 0 is none.
 * By a rule of parts each place of the grid has [part] tiles, which see each other, and the thumbnail [thumbnailPart].
 */
internal class PicturePlan(
    val grid: Grid,
    val resizes: List<Size>,
    val left: Int,
    val top: Int,
    val thumbnail: Int?,
    val thumbnailOf: Int,
    val part: Grid = Grid(1, 1),
    val thumbnailPart: Grid = Grid(1, 1),
    val square: Int = 0,
) {
    /** Tiles that are cut, the thumbnail's not counted. */
    val canvas: Grid get() = Grid(grid.across * part.across, grid.down * part.down)

    /** How many go through the encoder, the thumbnail's among them. */
    val tiles: Int get() = Math.toIntExact(canvas.tiles + if (thumbnail == null) 0 else thumbnailPart.tiles)

    /** What stands at each place, in sequence order: of so many tiles. */
    val parts: List<Grid>
        get() = ArrayList<Grid>(List(grid.tiles.toInt()) { part }).also { all -> thumbnail?.let { all.add(it, thumbnailPart) } }
}

/**
 * The plan for a picture, by the rule that the manifest names: all arithmetic in doubles, step by step as in Python.
 *
 * @throws dev.pocketvlm.PocketVlmException.ImageUnusable it is too narrow for the rule
 */
internal fun planOf(size: Size, tiling: Tiling): PicturePlan {
    if (tiling.strategy == "lfm2") return lfm2(size, tiling)
    if (tiling.strategy == "minicpmv") return minicpmv(size, tiling)
    val tile = tiling.tileSize
    val resizes: List<Size>
    val grid: Grid
    when (tiling.strategy) {
        "idefics3" -> {
            resizes = idefics3(size, tiling)
            grid = Grid(resizes[1].width / tile, resizes[1].height / tile)
        }
        "center-crop" -> {
            grid = Grid(1, 1)
            resizes = listOf(croppedFrom(size, tile))
        }
        "pad-square" -> {
            grid = Grid(1, 1)
            resizes = listOf(Size(tile, tile))
        }
        "smart-resize" -> {
            grid = wholePicture(size, tiling, fewest = 0)
            resizes = listOf(inPixels(grid, tile))
        }
        "gemma4" -> {
            grid = gemma4(size, tiling)
            resizes = listOf(inPixels(grid, tile))
        }
        "internvl" -> {
            grid = internvl(size, tiling)
            resizes = listOf(Size(grid.across * tile, grid.down * tile))
        }
        else -> {
            val isNext = tiling.strategy == "llava-next"
            grid = if (isNext) llavaNext(size, tiling) else relaxed(size, tiling)
            resizes = listOf(fittedSize(size, grid, tile, roundUp = isNext))
        }
    }
    val last = resizes.last()
    val place = { canvas: Int, side: Int -> (canvas - side) / 2 }
    val tiles = grid.tiles.toInt()
    val hasThumbnail = tiling.thumbnail != "none" && (tiles > 1 || tiling.thumbnailOfSingleTile)
    return PicturePlan(
        grid,
        resizes,
        left = place(grid.across * tile, last.width),
        top = place(grid.down * tile, last.height),
        thumbnail = if (!hasThumbnail) null else if (tiling.thumbnail == "first") 0 else tiles,
        thumbnailOf = if (tiling.strategy == "idefics3") 2 else 0,
        square = if (tiling.strategy == "pad-square") maxOf(size.width, size.height) else 0,
    )
}

/** Why no rule can follow a tiling, in one line that begins with the key; null where one can. */
internal fun tilingProblem(tiling: Tiling): String? =
    when {
        tiling.strategy == "idefics3" -> idefics3Problem(tiling)
        tiling.strategy == "smart-resize" -> smartResizeProblem(tiling)
        tiling.strategy == "lfm2" -> lfm2Problem(tiling)
        tiling.strategy == "gemma4" -> gemma4Problem(tiling)
        tiling.strategy == "minicpmv" -> minicpmvProblem(tiling)
        tiling.strategy in listOf("center-crop", "pad-square") && Grid(1, 1) !in tiling.candidates ->
            "candidates: they lack the grid that a picture gets"
        else -> null
    }
